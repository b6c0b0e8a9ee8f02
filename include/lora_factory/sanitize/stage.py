"""raw → clean (article, section 2.1, ``DataSanitizer``).

Parts hold what concerns each picture by itself (:mod:`lora_factory.sanitize.shard`). Here is what
needs all of them: captions chosen from the set's own words, copies, protected works, pairs that
don't belong together – the last only where the scorer shows on this very data that it can tell.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.base import Counts
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.records import (
    MEASURES_FILE,
    AuditRecord,
    CleanRecord,
    read_jsonl,
    write_jsonl,
)
from lora_factory.contracts.specs import SanitizeRequest, SanitizeSpec
from lora_factory.contracts.stage import StageContext, read_advice
from lora_factory.errors import ArtifactError, DataError
from lora_factory.guard.protected import open_index
from lora_factory.imaging.hashes import Fingerprints
from lora_factory.models.captioners import captioner
from lora_factory.models.profiles import load_profile
from lora_factory.sanitize import shard
from lora_factory.sanitize.advised import drop_advised, followed_advice
from lora_factory.sanitize.aligned import drop_unaligned
from lora_factory.sanitize.changes import changes
from lora_factory.sanitize.dedup import Copies, Evidence, Limits, copies
from lora_factory.sanitize.earlier import made_by, write_measures
from lora_factory.sanitize.items import count_sources, dropped
from lora_factory.sanitize.parts import AuditLog, read_parts
from lora_factory.sanitize.report import SanitizeReport
from lora_factory.sanitize.rights import conditions, drop_protected, drop_taken_down_since
from lora_factory.sanitize.scored import Roles, Scored, score
from lora_factory.sanitize.text import repair

if TYPE_CHECKING:
    from lora_factory.models.profiles import Profile

log = logging.getLogger(__name__)

__all__ = ["KIND", "SPEC", "VERSION", "conditions", "roles", "run"]
KIND: Kind = "clean"
VERSION = 6
SPEC = SanitizeSpec
ASKED = set(SanitizeRequest.model_fields) - {"raw", "previous", "force"}


def roles(spec: SanitizeSpec) -> tuple[str, ...]:
    """Roles whose models decide the result."""
    return (*shard.roles(spec), "captioner")


def run(spec: SanitizeSpec, ctx: StageContext) -> SanitizeReport:
    """Fill ``ctx.out``: ``images/``, ``records.jsonl``, ``audit.jsonl``, ``measures.npz``.

    Raises:
        DataError: fewer images than ``settings.min_images`` are left; tells why.
        ModelError: a role's model is missing or damaged.
        ConfigurationError: the index of protected works can't be used.
        ArtifactError: the parts aren't those of this input and spec.
    """
    profile = load_profile(spec.profile, ctx.settings)
    models = shard.load_models(profile, ctx.settings)
    advice = read_advice(ctx)
    given = _given_parts(spec, ctx)
    folders = given or shard.made_parts(spec, _shards(spec, ctx), models, ctx)
    audit = AuditLog(ctx.scratch / "audit.jsonl")
    for folder in folders:
        audit.extend(read_jsonl(folder / "audit.jsonl", AuditRecord))
    parts = read_parts(folders, ctx.scratch)
    seen = len(parts.items) + audit.reasons.total()
    _enough(len(parts.items), seen, audit, ctx)
    protected = open_index(profile, ctx.settings)
    asked = Roles(models.scorer, captioner(profile))
    scored = score(parts, asked, advice, ctx)
    ctx.check_stop()
    # Parts may be older than a takedown.
    gone = drop_taken_down_since(parts, audit, ctx) if given else set[int]()
    close = _drop_copies(scored, spec, gone, audit, ctx.settings.threads or 1)
    repeated = drop_protected(parts, gone, protected, ctx, audit) if protected is not None else 0
    drop_advised(parts.items, gone, advice, ctx.settings.min_images, audit)
    share = max(spec.alignment_percentile, advice.drop_alignment_percentile)
    if len(parts.items) - len(gone) <= ctx.settings.min_images / (1 - share / 100):
        share = spec.alignment_percentile  # advice that would leave too few images
    floor = spec.min_alignment
    if floor is None:
        floor = profile.role("image_text_scorer").floor
    aligned = drop_unaligned(scored, gone, share, floor, asked, audit)
    kept = [index for index in range(len(parts.items)) if index not in gone]
    _enough(len(kept), seen, audit, ctx)
    sides = _write(scored, kept, audit, ctx, link=not given)
    _write_measures(scored, kept, profile, ctx.out / MEASURES_FILE)
    followed = followed_advice(advice, _names(scored, kept), audit.reasons, aligned.note)
    for change in followed:
        log.info("followed advice: %s", change)
    captions = [scored.captions[index] for index in kept]
    return SanitizeReport(
        counts=Counts(seen=seen, kept=len(kept), dropped=dict(audit.reasons)),
        shards=len(folders),
        replayed=int(scored.replayed[kept].sum()),
        text_sources=dict(Counter(caption.source for caption in captions)),
        text_changes=dict(Counter(step for caption in captions for step in caption.steps)),
        agreement=scored.agreement,
        alignment_percentile=aligned.percentile,
        alignment_floor=aligned.floor,
        alignment_note=aligned.note,
        recaptioned=aligned.recaptioned,
        median_side=int(median(sides)),
        scorer=models.scorer.name,
        text_note=_text_note(models),
        duplicate_recall=close.recall,
        protected_works=repeated,
        followed_advice=followed,
    )


def _text_note(models: shard.Models) -> str:
    if models.texts is None:
        return "writing was not looked for: the profile fills no role text_detector"
    return f"writing was looked for by {models.texts.name}"


def _shards(spec: SanitizeSpec, ctx: StageContext) -> int:
    """How many parts the input is made in here."""
    count = count_sources(ctx.inputs["raw"], ctx.inputs.get("previous"))
    return max(1, -(-count // spec.shard_images))


def _given_parts(spec: SanitizeSpec, ctx: StageContext) -> list[Path]:
    """Folders of the parts that other tasks made, checked to be all of this input and spec.

    Raises:
        ArtifactError: one is missing, twice there, or of another input or spec.
    """
    found = [ctx.inputs[f"parts.{at}"] for at in range(len(spec.parts))]
    wanted = {name: ctx.inputs[name].sha256 for name in ("raw", "previous") if name in ctx.inputs}
    asked = spec.model_dump(mode="json", include=ASKED)
    for part in found:
        made_of = {entry.name: entry.sha256 for entry in part.manifest.inputs}
        if made_of != wanted or not asked.items() <= part.manifest.spec.items():
            msg = f"part {part.uri} was made of something else; make the shards of this run again"
            raise ArtifactError(msg)
    numbers = [(p.manifest.stats.get("shard"), p.manifest.stats.get("shards")) for p in found]
    if sorted(numbers) != [(at, len(found)) for at in range(len(found))]:
        msg = f"the {len(found)} parts are not each shard once; make the shards of this run again"
        raise ArtifactError(msg)
    ordered = sorted(found, key=lambda part: int(part.manifest.stats["shard"]))
    return [part.path for part in ordered]


def _drop_copies(
    scored: Scored, spec: SanitizeSpec, gone: set[int], audit: AuditLog, threads: int
) -> Copies:
    """Add copies to ``gone``; each is written to ``audit`` with the item it copies."""
    parts = scored.parts
    left = [at for at in range(len(parts.items)) if at not in gone]
    close = copies(
        Evidence(parts.prints, parts.images, parts.meanings, scored.words),
        sorted(left, key=scored.worth.__getitem__, reverse=True),
        Limits(spec.image_similarity, spec.text_similarity, threads),
        known=int(scored.replayed[left].sum()),
    )
    for copy in close.found:
        gone.add(copy.index)
        original = scored.names[copy.of]
        audit.append(dropped(scored.names[copy.index], copy.kind, f"of {original}"))
    return close


def _names(scored: Scored, kept: list[int]) -> Iterator[str]:
    return (scored.names[index] for index in kept)


def _enough(count: int, seen: int, audit: AuditLog, ctx: StageContext) -> None:
    least = ctx.settings.min_images
    if count >= least:
        return
    msg = (
        f"{count} of {seen} images are usable, {least} are needed "
        f"({audit.table() or 'nothing was found'}); add sources or loosen the limits"
    )
    raise DataError(msg)


def _write(
    scored: Scored, kept: list[int], audit: AuditLog, ctx: StageContext, *, link: bool
) -> list[int]:
    """Fill ``ctx.out``; returns the shorter sides of what was kept, pixels."""
    (ctx.out / "images").mkdir()
    sides: list[int] = []
    write_jsonl(ctx.out / "records.jsonl", _records(scored, kept, sides, ctx.out, link=link))
    before = ctx.inputs["raw"].path / "audit.jsonl"
    with (ctx.out / "audit.jsonl").open("wb") as out:
        for file in (before, audit.file):
            if file.is_file():
                with file.open("rb") as lines:
                    shutil.copyfileobj(lines, out)
        passed = ctx.scratch / "kept.jsonl"
        write_jsonl(passed, (_passed(scored, index) for index in kept))
        out.write(passed.read_bytes())
    return sides


def _write_measures(scored: Scored, kept: list[int], profile: Profile, file: Path) -> None:
    """What the next increment need not look at again."""
    prints, wanted = scored.parts.prints, set(kept)
    rows = [
        (item.sharpness, item.record.width, item.record.height, item.writing)
        for at, item in enumerate(scored.parts.items)
        if at in wanted
    ]
    write_measures(
        file,
        [scored.names[at] for at in kept],
        Fingerprints(prints.bits[kept], prints.thumbs[kept]),
        np.array(rows, dtype=np.float64).reshape(-1, 4),
        made_by(profile),
    )


def _records(
    scored: Scored, kept: list[int], sides: list[int], out: Path, *, link: bool
) -> Iterator[CleanRecord]:
    """The records of what is kept, each once its picture is in place."""
    for index in kept:
        raw = scored.parts.items[index].record
        caption = scored.captions[index]
        picture = scored.parts.items.file(index, raw.sha256)
        target = out / "images" / f"{raw.sha256}.png"
        if link:
            target.hardlink_to(picture)  # of scratch, which a retry still needs
        else:
            shutil.copyfile(picture, target)
        sides.append(min(raw.width, raw.height))
        yield CleanRecord(
            sha256=raw.sha256,
            file_name=f"images/{raw.sha256}.png",
            url=raw.url,
            page_url=raw.page_url,
            page_title=repair(raw.page_title).text,
            text=caption.text,
            text_source=caption.source,
            alignment=scored.cosine(index),
            licence=raw.licence,
            licence_evidence=raw.licence_evidence,
            width=raw.width,
            height=raw.height,
        )


def _passed(scored: Scored, index: int) -> AuditRecord:
    item = scored.parts.items[index]
    told = changes(item.record, item.caption, scored.captions[index])
    return AuditRecord(
        item=item.record.sha256,
        what="image",
        stage="sanitize",
        verdict="kept",
        detail="; ".join(filter(None, (item.cropped, told))),
    )
