"""A caption for each picture, and what the scorer thinks of the pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lora_factory.imaging.agreement import Agreement, agreement
from lora_factory.sanitize.advised import advised_captions
from lora_factory.sanitize.captions import (
    NO_CAPTION,
    Caption,
    candidates,
    compose,
    generated,
    named_caption,
    vocabulary,
)
from lora_factory.sanitize.items import open_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lora_factory.contracts.evaluation import Advice
    from lora_factory.contracts.stage import StageContext
    from lora_factory.models.roles import Captioner, ImageTextScorer
    from lora_factory.sanitize.items import Item
    from lora_factory.sanitize.parts import Parts

CHUNK = 64  # pictures, or 16 times as many texts, at a time
Worth = tuple[bool, int, int, int, bool, float, str]


class Roles(NamedTuple):
    """The roles that are asked once all pictures are there."""

    scorer: ImageTextScorer
    captioner: Captioner | None


@dataclass
class Scored:
    """n items with their captions, which ``parts.texts`` and ``parts.meanings`` are of.

    ``words``: n, length of each caption. ``worth``: n sort keys, best last.
    """

    parts: Parts
    names: list[str]
    replayed: NDArray[np.bool_]
    captions: list[Caption]
    words: NDArray[np.int64]
    worth: list[Worth]
    agreement: Agreement

    def cosine(self, index: int) -> float | None:
        """Of picture and caption; None without a caption."""
        if not self.captions[index].text:
            return None
        return float(self.parts.images[index] @ self.parts.texts[index])


def score(parts: Parts, roles: Roles, advice: Advice, ctx: StageContext) -> Scored:
    """Choose or compose a caption for each picture and compare the two."""
    advised = advised_captions(advice)
    # What a scorer chose, or finds wrong, says nothing of how well it reads what people wrote.
    named = {item.sha256 for item in advice.items}
    found: list[Caption | None] = []
    names, replayed, told = [], [], []
    for at, item in enumerate(parts.items):
        sha256 = item.record.sha256
        names.append(sha256)
        replayed.append(item.replayed)
        found.append(advised.get(sha256) or item.caption)
        if item.caption is not None and sha256 not in named:
            told.append(at)
    agreed = agreement(parts.images, parts.texts, rows=np.asarray(told, dtype=np.int64))
    captions = _captions(parts, found, roles, ctx, trusted=agreed.trusted)
    made = {at: c for at, c in enumerate(captions) if c.source == "composed"}
    put_captions(parts, made, roles.scorer)
    silenced = [at for at, c in enumerate(captions) if not c.text]
    parts.texts[silenced] = parts.meanings[silenced] = 0  # a wrong caption's, no witness of copies
    return Scored(
        parts,
        names,
        np.asarray(replayed, dtype=np.bool_),
        captions,
        np.array([len(caption.text.split()) for caption in captions], dtype=np.int64),
        [_worth(item, caption) for item, caption in zip(parts.items, captions, strict=True)],
        agreed,
    )


def _captions(
    parts: Parts,
    found: list[Caption | None],
    roles: Roles,
    ctx: StageContext,
    *,
    trusted: bool,
) -> list[Caption]:
    """The found captions; where there is none, the captioner's, one that a trusted scorer
    chooses, or the file's name. Where a wrong one was taken away, the captioner's or none: what
    a scorer chooses among the set's words is wrong too often."""
    made: dict[int, Caption] = {}
    silent = [at for at, caption in enumerate(found) if caption is None or not caption.text]
    words = vocabulary(found)
    known = dict(zip(words, roles.scorer.embed_texts(words), strict=True)) if trusted else {}
    for start in range(0, len(silent), CHUNK):
        ctx.check_stop()
        some = silent[start : start + CHUNK]
        items = [parts.items[at] for at in some]
        made |= described(parts, some, roles.captioner)
        rest = [
            (at, item)
            for at, item in zip(some, items, strict=True)
            if at not in made and found[at] is None
        ]
        if not trusted:
            made |= {at: named_caption(item.record) for at, item in rest}
            continue
        options = {at: candidates(item.record, words) for at, item in rest}
        # Each text once: the vocabulary is everybody's.
        texts = list(dict.fromkeys(t for o in options.values() for t in o if t not in known))
        here = known | dict(zip(texts, roles.scorer.embed_texts(texts), strict=True))
        for at, choice in options.items():
            vectors = [here[text] for text in choice]
            made[at] = compose(choice, parts.images[at], vectors)
    return [made.get(at) or caption or NO_CAPTION for at, caption in enumerate(found)]


def described(parts: Parts, some: list[int], captioner: Captioner | None) -> dict[int, Caption]:
    """Index → what the captioner says of the picture, of those it has something to say of."""
    if captioner is None or not some:
        return {}
    names = [parts.items[at].record.sha256 for at in some]
    files = [parts.items.file(at, name) for at, name in zip(some, names, strict=True)]
    texts = captioner.captions(open_images(files))
    given = {at: generated(text) for at, text in zip(some, texts, strict=True)}
    return {at: caption for at, caption in given.items() if caption is not None}


def put_captions(parts: Parts, captions: Mapping[int, Caption], scorer: ImageTextScorer) -> None:
    """Embed captions that no person wrote into ``parts.texts``; they are no witness of a copy:
    the scorer that sees two pictures alike chose them."""
    changed = list(captions)
    for start in range(0, len(changed), 16 * CHUNK):
        some = changed[start : start + 16 * CHUNK]
        parts.texts[some] = scorer.embed_texts([captions[at].text for at in some])
        parts.meanings[some] = 0


def _worth(item: Item, caption: Caption) -> Worth:
    """Sort key, best last: replayed, caption found on the page, pixels, licence, lossless,
    sharpness.

    Lossless before sharpness: a JPEG's ringing reads as sharpness.
    """
    told = {"alt": 2, "caption": 2, "composed": 1}.get(caption.source, 0)
    pixels = item.record.width * item.record.height
    free = freedom(item.record.licence)
    return item.replayed, told, pixels, free, item.lossless, item.sharpness, item.record.sha256


def freedom(licence: str) -> int:
    """How little a licence asks for: 4 nothing, 3 to be named, 2 to share alike, 1 known, 0 not."""
    if licence == "unknown":
        return 0
    if licence in {"own", "CC0-1.0", "PDM-1.0", "PDDL-1.0"}:
        return 4
    if licence in {"MIT", "Apache-2.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0"}:
        return 3
    return 2 if licence.startswith("CC-BY-SA-") else 1
