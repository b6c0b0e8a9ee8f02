"""The content rules at data: pictures and their words, by the same guard as at serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_factory.contracts.progress import Progress
from lora_factory.guard.content import MAX_LENGTH, check_prompt
from lora_factory.guard.images import image_filter
from lora_factory.sanitize.items import Item, dropped, open_images

if TYPE_CHECKING:
    from lora_factory.contracts.records import AuditRecord
    from lora_factory.contracts.stage import StageContext
    from lora_factory.models.profiles import Profile

CHUNK = 64  # pictures in memory at a time


def drop_unsafe(
    items: list[Item], profile: Profile, ctx: StageContext, audit: list[AuditRecord]
) -> list[Item]:
    """The items whose picture and words may be trained on.

    ``unsafe_image``: the content filter objects. ``unsafe_text``: what the page says the
    picture shows is nothing that may be asked for; a second witness where the filter can't
    see (violence, small pictures). The others' files are removed and their reasons noted.

    Raises:
        ModelError: the filter's model is missing; no item passes unseen.
    """
    look = image_filter(profile, ctx.settings)
    kept = []
    progress = Progress("sanitize: safety", len(items), "images")
    for start in range(0, len(items), CHUNK):
        ctx.check_stop()
        part = items[start : start + CHUNK]
        for item, finding in zip(part, look.check(open_images(part)), strict=True):
            rule, detail = finding.rule, finding.detail
            if finding.allowed:
                rule, detail = "unsafe_text", _objection(item)
            if not detail:
                kept.append(item)
                continue
            item.file.unlink()
            audit.append(dropped(item.record.sha256, rule, detail))
        progress.advance(len(part))
    return kept


def _objection(item: Item) -> str:
    """Field and rule by which an item's words are refused; empty where they aren't."""
    for field in ("caption", "alt"):
        # A prompt that is too long is refused unread; a page's text is only cut.
        verdict = check_prompt(str(getattr(item.record, field))[:MAX_LENGTH])
        if not verdict.allowed:
            return f"{field}: {verdict.rule}"
    return ""
