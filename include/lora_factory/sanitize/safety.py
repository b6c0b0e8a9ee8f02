"""The content rules at data: pictures and their words, by the same guard as at serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_factory.guard.content import MAX_LENGTH
from lora_factory.sanitize.captions import candidates, found_caption
from lora_factory.sanitize.text import from_file_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_factory.contracts.records import RawRecord
    from lora_factory.guard.images import ImageFilter
    from lora_factory.guard.meaning import PromptFilter
    from lora_factory.sanitize.items import Admitted


def objections(
    looked: Sequence[Admitted], pictures: ImageFilter, words: PromptFilter
) -> dict[str, tuple[str, str]]:
    """sha256 → reason and detail, of what may not be trained on.

    ``unsafe_image``: the content filter objects. ``unsafe_text``: the words are none that may
    be asked for; a second witness where the filter can't see (violence, small pictures).
    """
    found = {
        sha256: ("unsafe_text", detail)
        for sha256, detail in _objections([each.item.record for each in looked], words).items()
    }
    shown = [(each, each.view) for each in looked if each.view is not None]
    verdicts = pictures.check([view for _, view in shown])
    for (each, _), finding in zip(shown, verdicts, strict=True):
        if not finding.allowed:
            found[each.item.record.sha256] = (finding.rule, finding.detail)
    return found


def _objections(records: Sequence[RawRecord], words: PromptFilter) -> dict[str, str]:
    """sha256 → where its words are refused and by which rule, of the items whose are."""
    told = [
        # A prompt that is too long is refused unread; a page's text is only cut.
        (record.sha256, where, text[:MAX_LENGTH])
        for record in records
        for where, text in _words(record)
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
