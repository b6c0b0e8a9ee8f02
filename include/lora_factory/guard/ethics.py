"""The ethics report (article, 6.2 ``generate_ethics_report``): items with evidence, no praise.

``transparency_score`` is the share of items that are fulfilled; each item is a question that
can be checked by opening what its evidence names. What only deploying can do (signing, marking
what is generated, a route for removals) is ``at_release``, which counts as not fulfilled until
:func:`complete_ethics` gets the release's facts.

Marking follows the EU AI Act, Art. 50 (applies from 2 August 2026): outputs of a generative
system are marked in a machine-readable way, and people are told. Whether a release complies
with a law is for a lawyer to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lora_factory.contracts.ethics import (
    BiasAudit,
    EthicsReport,
    ItemState,
    MarkingDuty,
    ReleaseFacts,
    TransparencyItem,
)
from lora_factory.guard.provenance.bom import BOM
from lora_factory.guard.provenance.marks import WATERMARK, marks_of
from lora_factory.guard.provenance.signing import SIGNATURE
from lora_factory.guard.provenance.watermark import MIN_SIDE
from lora_factory.guard.training_data import UNKNOWN, Lineage, read_drops, summarise

if TYPE_CHECKING:
    from lora_factory.contracts.copyright import CopyrightCheck
    from lora_factory.contracts.ethics import TrainingDataSummary
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.models.profiles import BaseEntry

log = logging.getLogger(__name__)
FILE = "ethics.json"
NOTES = (
    "This report lists what was checked and where the evidence is; it is no legal opinion.",
    "Scores of other models are comparable only if they were made from the same items.",
)
AT_RELEASE = "known at release"


@dataclass(frozen=True)
class Subject:
    """What an evaluation knows of a LoRA.

    ``calibration`` says on what the scorer was calibrated, empty where it wasn't.
    """

    lora: LocalArtifact
    dataset: LocalArtifact
    lineage: Lineage
    base: BaseEntry
    scorer: str
    prompts: int
    """Prompts whose pictures are published with the evaluation."""
    calibration: str = ""


def generate_ethics_report(
    subject: Subject, bias: BiasAudit, copyright_checks: Sequence[CopyrightCheck]
) -> EthicsReport:
    """The report of an evaluation."""
    data = summarise(subject.dataset, subject.lineage)
    items = (
        *_model_items(subject),
        *_data_items(subject, data),
        *_audit_items(bias, copyright_checks),
        *_release_items(ReleaseFacts(), "at_release"),
    )
    return EthicsReport(
        stage="evaluation",
        bias_audit=bias,
        copyright_compliance=tuple(copyright_checks),
        transparency_score=transparency_score(items),
        transparency=items,
        marking=tuple(_marking(ReleaseFacts(), "at_release")),
        training_data=data,
        notes=NOTES,
    )


def complete_ethics(report: EthicsReport, facts: ReleaseFacts) -> EthicsReport:
    """The report of a release: what was ``at_release`` is now fulfilled, or missing.

    Args:
        report: of the evaluation (``ethics.json``).
        facts: evidence for each thing that was done; an empty one was not done.
    """
    done = {item.id: item for item in _release_items(facts, "missing")}
    items = tuple(done.get(item.id, item) for item in report.transparency)
    return report.model_copy(
        update={
            "stage": "release",
            "transparency": items,
            "transparency_score": transparency_score(items),
            "marking": tuple(_marking(facts, "missing")),
        }
    )


def complete_release(folder: Path, *, signed: bool) -> EthicsReport | None:
    """Complete ``ethics.json`` in a release's folder from what lies beside it.

    Args:
        folder: with every file of the release but the signature.
        signed: whether it is signed next.

    Returns:
        The report; None where the evaluation had none, or one that can't be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        report = EthicsReport.model_validate_json(file.read_bytes())
    except ValidationError as err:
        log.warning("%s can't be completed: %s", FILE, str(err).splitlines()[0])
        return None
    report = complete_ethics(report, _facts(folder, signed=signed))
    file.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _facts(folder: Path, *, signed: bool) -> ReleaseFacts:
    """Only what this package does itself, or what lies in the folder."""
    side = _side(folder / "lora.safetensors")
    marked = WATERMARK in marks_of((side, side)) if side else False
    here = {name for name in ("README.md", "release.json", BOM) if (folder / name).is_file()}
    return ReleaseFacts(
        signature=SIGNATURE if signed else "",
        bom=BOM if BOM in here else "",
        registry="release.json" if "release.json" in here else "",
        model_card="README.md" if "README.md" in here else "",
        c2pa="this package's serving app signs every picture it sends (guard/provenance)",
        watermark=f"this package's serving app, pictures of {side} px" if marked else "",
        watermark_reason=""
        if marked or not side
        else f"pictures of {side} px are too small for a watermark (≥ {MIN_SIDE} px)",
    )


def _side(file: Path) -> int:
    """Pixels, from the LoRA's own header; 0 where it doesn't say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as opened:
            words = (opened.metadata() or {}).get("modelspec.resolution", "").split("x")
    except (SafetensorError, OSError):
        return 0
    return int(words[0]) if words[0].isdecimal() else 0


def transparency_score(items: Sequence[TransparencyItem]) -> float:
    """Share of items that are fulfilled (article: ``calculate_transparency``); 0 for none."""
    if not items:
        return 0.0
    return sum(item.state == "fulfilled" for item in items) / len(items)


def _item(
    name: str, question: str, done: object, detail: str, evidence: str = ""
) -> TransparencyItem:
    state: ItemState = "fulfilled" if done else "missing"
    return TransparencyItem(
        id=name, question=question, state=state, detail=detail, evidence=evidence
    )


def _model_items(subject: Subject) -> Iterator[TransparencyItem]:
    lora, base = subject.lora, subject.base
    revision = lora.manifest.models.get(f"base:{base.name}", "")
    yield _item(
        "base_named",
        "Is the base model named, with its revision?",
        revision,
        f"{base.name}, {revision or 'revision not recorded'}",
        f"{lora.uri} models",
    )
    yield _item(
        "base_licensed",
        "Is the base model's licence stated?",
        base.licence,
        base.licence or "not stated in the profile; add `licence` to the base",
        f"profile, bases.{base.name}.licence",
    )
    yield _item(
        "training_recorded",
        "Are the training's settings, seed and code version recorded?",
        _input_uri(lora, "plan"),
        f"code {lora.manifest.code_version}",
        _input_uri(lora, "plan") or lora.uri,
    )
    yield _item(
        "prompts_and_seeds",
        "Are the evaluation's prompts and seeds published with its pictures?",
        subject.prompts,
        f"{subject.prompts} prompts",
        "pairs.jsonl, images/",
    )
    yield _item(
        "scorer_named",
        "Is the scorer named, with its revision?",
        "@" in subject.scorer,
        subject.scorer,
        "report.json scorer",
    )
    yield _item(
        "scorer_calibrated",
        "Is the scorer calibrated, and on what?",
        subject.calibration,
        subject.calibration or "not calibrated: no verdict is a pass without a person",
        "report.json calibration",
    )


def _data_items(subject: Subject, data: TrainingDataSummary) -> Iterator[TransparencyItem]:
    dataset, lineage = subject.dataset, subject.lineage
    unknown = data.licences.get(UNKNOWN, 0)
    unplaced = data.domains.get(UNKNOWN, 0)
    drops = read_drops(dataset.path)
    yield _item(
        "dataset_manifest",
        "Is there a manifest with the hash of every training image?",
        dataset.manifest.files,
        f"{len(dataset.manifest.files)} files, sha256 each",
        dataset.uri,
    )
    yield _item(
        "licences_known",
        "Is the licence of every image known?",
        data.images and not unknown,
        f"{data.images - unknown} of {data.images}",
        "metadata.jsonl licence",
    )
    yield _item(
        "sources_recorded",
        "Is the source of every image recorded?",
        data.images and not unplaced,
        f"{data.images - unplaced} of {data.images}",
        "metadata.jsonl source",
    )
    crawled = bool(drops and drops.crawled)
    yield _item(
        "opt_outs_recorded",
        "Are opt-outs honoured, and the evidence stored?",
        crawled and data.opt_out_measures,
        _opt_outs(data) if crawled else "no verdicts of a crawl are stored",
        "audit.parquet",
    )
    yield _item(
        "drops_recorded",
        "Is it recorded what was left out, and why?",
        drops is not None,
        f"{sum(drops.reasons.values())} items left out" if drops else "audit.parquet is missing",
        "audit.parquet",
    )
    yield _item(
        "collection_dated",
        "Is it known when the images were collected?",
        data.collected != UNKNOWN,
        data.collected,
        lineage.uris[-1] if lineage.uris else "",
    )
    yield _item(
        "lineage_complete",
        "Can the LoRA be followed back to the crawl, hash by hash?",
        not lineage.broken and _input_uri(subject.lora, "dataset"),
        lineage.broken or "lora → dataset → clean → raw",
        lineage.uris[-1] if lineage.uris else dataset.uri,
    )


def _opt_outs(data: TrainingDataSummary) -> str:
    if not data.opt_out_measures:
        return "not crawled from the web: opt-outs were the collector's to honour"
    return f"{data.opt_outs_honoured} pages and images left out for opt-outs"


def _audit_items(bias: BiasAudit, checks: Sequence[CopyrightCheck]) -> Iterator[TransparencyItem]:
    yield _item(
        "bias_audited",
        "Was bias audited, and could it be read?",
        bias.state == "measured",
        bias.note,
        "ethics.json bias_audit",
    )
    for against, question in (
        ("training", "Was it checked that pictures don't repeat training images?"),
        ("protected", "Was it checked that pictures don't repeat protected works?"),
    ):
        found = [check for check in checks if check.against == against]
        detail = "; ".join(
            f"{check.calibrated_hits} of {check.n} repeat one of {check.works} works "
            f"(share at most {check.calibrated_high:.1%})"
            for check in found
        )
        yield _item(
            f"copies_{against}",
            question,
            any(check.n for check in found),
            detail or "not checked",
            "ethics.json copyright_compliance",
        )


def _release_items(facts: ReleaseFacts, otherwise: ItemState) -> Iterator[TransparencyItem]:
    """Items that a release fulfils; ``otherwise`` is the state of those without evidence."""
    questions = (
        ("model_card", "Is there a model card?", facts.model_card),
        ("registered", "Is the release registered with its lineage?", facts.registry),
        ("signed", "Is the release signed?", facts.signature),
        ("bill_of_materials", "Is there a bill of materials (ML-BOM)?", facts.bom),
        ("content_credentials", "Do generated images carry a C2PA manifest?", facts.c2pa),
        (
            "watermark_or_reason",
            "Do generated images carry a watermark, or is it said why not?",
            facts.watermark or facts.watermark_reason,
        ),
        ("disclosure", "Are people told that the images are generated?", facts.disclosure),
        ("takedown_route", "Is it said where to ask for a removal?", facts.takedown),
    )
    for name, question, evidence in questions:
        yield TransparencyItem(
            id=name,
            question=question,
            state="fulfilled" if evidence else otherwise,
            detail="" if evidence else _lacking(otherwise),
            evidence=evidence,
        )


def _marking(facts: ReleaseFacts, otherwise: ItemState) -> Iterator[MarkingDuty]:
    """Art. 50(2) and (4), and the voluntary Code of Practice's two layers of marking."""
    duties = (
        ("Outputs are marked machine-readably: signed metadata (Art. 50(2))", facts.c2pa, ""),
        (
            "Outputs are marked machine-readably: imperceptible watermark (Code of Practice)",
            facts.watermark,
            facts.watermark_reason,
        ),
        (
            "People are told that images are generated (Art. 50(4), duty of who publishes them)",
            facts.disclosure,
            "",
        ),
    )
    for duty, evidence, reason in duties:
        yield MarkingDuty(
            duty=duty,
            state="fulfilled" if evidence else otherwise,
            detail="" if evidence else reason or _lacking(otherwise),
            evidence=evidence,
        )


def _lacking(state: ItemState) -> str:
    return AT_RELEASE if state == "at_release" else "not done"


def _input_uri(artifact: LocalArtifact, name: str) -> str:
    return next(
        (entry.manifest_uri for entry in artifact.manifest.inputs if entry.name == name), ""
    )
