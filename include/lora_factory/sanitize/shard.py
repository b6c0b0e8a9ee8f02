"""sanitize.shard: what of sanitizing concerns each picture by itself (raw → cleanpart).

Decode, measures, normalisation, fingerprints, content rules, embeddings: by far most of the
time, and nothing that needs another picture but exact copies, which fall into the same shard.
Memory is bounded by a shard. A run with several shards maps this over them; ``sanitize`` does it
itself where there is one, by the same code. Advice is none of its inputs: later attempts find
their parts made.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lora_factory.contracts.base import Counts, StageReport
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.progress import Progress
from lora_factory.contracts.specs import SanitizeRequest, ShardSpec
from lora_factory.guard.images import image_filter
from lora_factory.guard.meaning import PromptFilter
from lora_factory.models.loaders import image_text_scorer, limit_threads, text_embedder
from lora_factory.models.profiles import load_profile
from lora_factory.models.text_detectors import text_detector
from lora_factory.sanitize.earlier import (
    SCORER,
    Measured,
    earlier_measures,
    earlier_vectors,
    made_by,
)
from lora_factory.sanitize.items import Admitted, Item, Share, Source, admit, dropped, sources
from lora_factory.sanitize.parts import Rows, write_part
from lora_factory.sanitize.rights import conditions, drop_taken_down
from lora_factory.sanitize.safety import objections

if TYPE_CHECKING:
    from pathlib import Path

    from lora_factory.contracts.records import AuditRecord
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import StageContext
    from lora_factory.guard.images import ImageFilter
    from lora_factory.models.profiles import Profile
    from lora_factory.models.roles import ImageTextScorer, TextDetector, TextEmbedder, Vectors

__all__ = ["KIND", "SPEC", "VERSION", "conditions", "roles", "run"]
KIND: Kind = "cleanpart"
VERSION = 4
SPEC = ShardSpec
CHUNK = 64  # pictures in memory at a time, as models look at them


class Models(NamedTuple):
    """The roles that look at each picture and its words."""

    scorer: ImageTextScorer
    embedder: TextEmbedder
    pictures: ImageFilter
    words: PromptFilter
    texts: TextDetector | None


class ShardReport(StageReport):
    """Stats of a cleanpart; ``counts.kept`` are its items."""

    shard: int = 0
    shards: int = 1


def roles(_spec: SanitizeRequest) -> tuple[str, ...]:
    """Roles whose models decide the result."""
    return ("image_text_scorer", "text_embedder", "content_filter", "text_detector?")


def load_models(profile: Profile, settings: Settings) -> Models:
    """Load the roles.

    Raises:
        ModelError: a role's model is missing or damaged.
        ConfigurationError: the profile leaves a role empty that is needed.
    """
    limit_threads(settings)
    embedder = text_embedder(profile)
    return Models(
        image_text_scorer(profile),
        embedder,
        image_filter(profile, settings),
        PromptFilter(embedder),
        text_detector(profile, settings),
    )


def run(spec: ShardSpec, ctx: StageContext) -> ShardReport:
    """Fill ``ctx.out`` with a part.

    Raises:
        ModelError: a role's model is missing or damaged.
        Interrupted: asked to stop.
    """
    models = load_models(load_profile(spec.profile, ctx.settings), ctx.settings)
    counts = fill(ctx.out, Share(spec.shard, spec.shards), spec, models, ctx)
    return ShardReport(counts=counts, shard=spec.shard, shards=spec.shards)


def made_parts(spec: SanitizeRequest, shards: int, models: Models, ctx: StageContext) -> list[Path]:
    """Make every part in ``ctx.scratch``, one after another; a retry keeps those it finds."""
    parts = []
    for number in range(shards):
        part = ctx.scratch / f"part-{number:05d}-of-{shards:05d}"
        if not part.is_dir():
            draft = part.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            fill(draft, Share(number, shards), spec, models, ctx)
            draft.rename(part)
            _trim()
        parts.append(part)
    return parts


def _trim() -> None:
    """Hand freed memory back to the system where it is glibc's.

    Pictures and tensors of all sizes leave its heap in pieces: it grew by a tenth over 50 shards.
    """
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


def fill(
    folder: Path, share: Share, spec: SanitizeRequest, models: Models, ctx: StageContext
) -> Counts:
    """Write a share's part to ``folder``.

    One bad file is one line in the audit, by name; it never stops the rest.
    """
    audit: list[AuditRecord] = []
    found = list(sources(ctx.inputs["raw"], ctx.inputs.get("previous"), share))
    usable = drop_taken_down(found, ctx, audit)
    (folder / "images").mkdir()
    replayed = {source.record.sha256 for source in usable if source.replayed}
    profile, previous = load_profile(spec.profile, ctx.settings), ctx.inputs.get("previous")
    revision = profile.revisions((SCORER,)).get(SCORER)
    gathered = _Gathered(earlier_vectors(previous, replayed, revision))
    # Only what has a vector, too, needs no look.
    known = earlier_measures(previous, gathered.stored.keys(), made_by(profile))
    label = "sanitize: look" if share.count == 1 else f"sanitize: look, shard {share.number + 1}"
    progress = Progress(label, len(usable), "images")
    for chunk in _chunks(usable):
        ctx.check_stop()
        looked = _admitted(chunk, folder, spec, gathered.seen, known, audit)
        gathered.add(_allowed(looked, folder, spec, models, audit), models)
        progress.advance(len(chunk))
    write_part(folder, gathered.items, gathered.rows(models), audit)
    reasons = Counter(line.reason for line in audit)
    return Counts(seen=len(found), kept=len(gathered.items), dropped=dict(reasons))


def _chunks(found: Iterable[Source]) -> Iterator[list[Source]]:
    rest = iter(found)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _admitted(
    chunk: list[Source],
    folder: Path,
    spec: SanitizeRequest,
    seen: set[str],
    known: Mapping[str, Measured],
    audit: list[AuditRecord],
) -> list[Admitted]:
    """Pictures that pass their own checks; exact copies of what was ``seen`` don't."""
    looked = []
    for source in chunk:
        sha256 = source.record.sha256
        if sha256 in seen:
            audit.append(dropped(sha256, "exact_duplicate", source.record.url))
            continue
        seen.add(sha256)
        measured = known.get(sha256) if source.replayed else None
        result = admit(source, folder / "images", spec, measured)
        if isinstance(result, Admitted):
            looked.append(result)
        else:
            audit.append(result)
    return looked


def _allowed(
    looked: list[Admitted],
    folder: Path,
    spec: SanitizeRequest,
    models: Models,
    audit: list[AuditRecord],
) -> list[Admitted]:
    """Those that no content rule objects to and that aren't mostly text."""
    found = objections(looked, models.pictures, models.words)
    if models.texts is not None:
        looked = _read(looked, models.texts)
        for each in looked:
            if (share := each.item.writing or 0.0) > spec.max_text:
                found.setdefault(each.item.record.sha256, ("text_heavy", f"{share:.0%} is text"))
    kept = []
    for each in looked:
        sha256 = each.item.record.sha256
        if sha256 not in found:
            kept.append(each)
            continue
        (folder / "images" / f"{sha256}.png").unlink()
        audit.append(dropped(sha256, *found[sha256]))
    return kept


def _read(looked: list[Admitted], texts: TextDetector) -> list[Admitted]:
    """The same, each with how much of it is writing."""
    views = [each.view for each in looked if each.view is not None]
    shares = iter(texts.shares(views).tolist())
    return [
        each
        if each.view is None
        else replace(each, item=each.item.model_copy(update={"writing": next(shares)}))
        for each in looked
    ]


class _Gathered:
    """Items of a part and their rows, in the order they came."""

    def __init__(self, stored: Mapping[str, Vectors]) -> None:
        self.stored = stored  # vectors of pictures that an earlier run embedded
        self.seen: set[str] = set()
        self.items: list[Item] = []
        self._hashes: list[str] = []
        self._thumbs: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
        self._vectors: list[tuple[Vectors, Vectors, Vectors]] = []

    def add(self, looked: list[Admitted], models: Models) -> None:
        """Embed a chunk."""
        self.items += [each.item for each in looked]
        self._hashes += [each.hash for each in looked]
        self._thumbs += [each.thumb for each in looked]
        captions = [each.item.caption.text if each.item.caption else "" for each in looked]
        told = [at for at, text in enumerate(captions) if text]
        texts = [captions[at] for at in told]
        self._vectors.append((
            self._embedded(looked, models.scorer),
            _placed(models.scorer.embed_texts(texts), told, len(looked)),
            _placed(models.embedder.encode(texts), told, len(looked)),
        ))

    def _embedded(self, looked: list[Admitted], scorer: ImageTextScorer) -> Vectors:
        """A row for each; the scorer looks only at pictures that no earlier run embedded."""
        old = {
            at: self.stored[each.item.record.sha256]
            for at, each in enumerate(looked)
            if each.item.replayed and each.item.record.sha256 in self.stored
        }
        new = [at for at in range(len(looked)) if at not in old]
        views = [view for at in new if (view := looked[at].view) is not None]
        rows = _placed(scorer.embed_images(views), new, len(looked))
        for at, row in old.items():
            rows[at] = row
        return rows

    def rows(self, models: Models) -> Rows:
        """All rows; their widths are the models' where there are none."""
        empty = (
            models.scorer.embed_images([]),
            models.scorer.embed_texts([]),
            models.embedder.encode([]),
        )
        images, texts, meanings = (
            np.concatenate(each) for each in zip(empty, *self._vectors, strict=True)
        )
        return Rows(self._hashes, self._thumbs, images, texts, meanings)


def _placed(vectors: Vectors, at: list[int], count: int) -> Vectors:
    """Row k of ``vectors`` at row ``at[k]`` of ``count``; the others are zero."""
    rows = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    rows[at] = vectors
    return rows
