"""The content rules at data: pictures and their words, by the same guard as at serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_factory.contracts.progress import Progress
from lora_factory.guard.content import MAX_LENGTH
from lora_factory.sanitize.captions import candidates, found_caption
from lora_factory.sanitize.items import Item, dropped, open_images
from lora_factory.sanitize.text import from_file_name

if TYPE_CHECKING:
    from lora_factory.contracts.records import AuditRecord, RawRecord
    from lora_factory.contracts.stage import StageContext
    from lora_factory.guard.images import ImageFilter
    from lora_factory.guard.meaning import PromptFilter

CHUNK = 64  # pictures in memory at a time


def drop_unsafe(
    items: list[Item],
    pictures: ImageFilter,
    words: PromptFilter,
    ctx: StageContext,
    audit: list[AuditRecord],
) -> list[Item]:
    """The items whose picture and words may be trained on.

    ``unsafe_image``: the content filter objects. ``unsafe_text``: the words are none that may
    be asked for; a second witness where the filter can't see (violence, small pictures). The
    others' files are removed and their reasons noted.
    """
    kept = []
    progress = Progress("sanitize: safety", len(items), "images")
    for start in range(0, len(items), CHUNK):
        ctx.check_stop()
        part = items[start : start + CHUNK]
        objections = _objections(part, words)
        for item, finding in zip(part, pictures.check(open_images(part)), strict=True):
            rule, detail = finding.rule, finding.detail
            if finding.allowed:
                rule, detail = "unsafe_text", objections.get(item.record.sha256, "")
            if not detail:
                kept.append(item)
                continue
            item.file.unlink()
            audit.append(dropped(item.record.sha256, rule, detail))
        progress.advance(len(part))
    return kept


def _objections(items: list[Item], words: PromptFilter) -> dict[str, str]:
    """sha256 → where its words are refused and by which rule, of the items whose are."""
    told = [
        # A prompt that is too long is refused unread; a page's text is only cut.
        (item.record.sha256, where, text[:MAX_LENGTH])
        for item in items
        for where, text in _words(item.record)
        if text
    ]
    verdicts = words.check([text for _, _, text in told])
    return {
        sha256: f"{where}: {verdict.rule}"
        for (sha256, where, _), verdict in zip(told, verdicts, strict=True)
        if not verdict.allowed
    }


def _words(record: RawRecord) -> list[tuple[str, str]]:
    """What says what the picture shows, and what a caption may be composed of if nothing does."""
    told = [
        ("alt", record.alt),
        ("caption", record.caption),
        ("file name", from_file_name(record.url)),
    ]
    if found_caption(record) is None:
        told += [("page", text) for text in candidates(record, ())]
    return told
