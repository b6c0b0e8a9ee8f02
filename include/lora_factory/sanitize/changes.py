"""What became of a picture's words, for the audit: each text before it was changed, in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_factory.sanitize.text import repair

if TYPE_CHECKING:
    from lora_factory.contracts.records import RawRecord
    from lora_factory.sanitize.captions import Caption

WORDS = ("alt", "caption")


def changes(record: RawRecord, found: Caption | None, caption: Caption) -> str:
    """``<field> (<why>): '<as it was>'`` of each text that isn't as it was found; may be empty.

    A text is written as Python writes strings, so that any can be read back.

    Args:
        record: the picture as it was found.
        found: the page's own words for it, repaired; None: there were none.
        caption: what it is called now.
    """
    source = caption.source if caption.source in WORDS else found.source if found else ""
    before = str(getattr(record, source)) if source else ""
    told = []
    if before != caption.text and (before or caption.steps):
        replaced = ("replaced",) if source and source != caption.source else ()
        told.append(f"{source or 'text'} ({' '.join((*caption.steps, *replaced))}): {before!r}")
    title = repair(record.page_title)
    if title.text != record.page_title:
        told.append(f"page_title ({' '.join(title.steps)}): {record.page_title!r}")
    return "; ".join(told)
