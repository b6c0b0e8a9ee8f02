"""A store with a short but whole line of artifacts: raw → clean → dataset → lora → evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from lora_factory.contracts.base import Counts
from lora_factory.contracts.evaluation import Advice, EvaluationReport, HardGate, Metric
from lora_factory.contracts.manifest import InputEntry, Kind, Manifest
from lora_factory.contracts.records import CleanRecord, DatasetRecord, RawRecord, write_jsonl
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.contracts.training import TrainReport
from lora_factory.store.artifacts import ArtifactStore, open_store

LICENCES = ("CC0-1.0", "CC0-1.0", "MIT", "own")
TRAINED = TrainReport(
    base="emoji",
    trigger="icnx",
    rank=4,
    steps=10,
    best_step=10,
    train_loss=0.2,
    validation_loss_before=0.3,
    validation_loss=0.2,
    images_per_second=1,
    peak_memory_mb=1,
)
JUDGED = EvaluationReport(
    verdict="pass",
    overall=0.9,
    overall_low=0.88,
    threshold=0.85,
    metrics=(Metric(name="fidelity", value=0.5, unit="", score=0.9, low=0.8, high=0.95, n=24),),
    gates=(HardGate(name="finite", passed=True),),
    advice=Advice(),
    prompts=("icnx, a red apple",),
    trigger="icnx",
    base="emoji",
    scorer="clip sha256:1",
)


@dataclass(frozen=True)
class Line:
    """The artifacts by kind, and the LoRA as the registry knows it."""

    store: ArtifactStore
    raw: LocalArtifact
    clean: LocalArtifact
    dataset: LocalArtifact
    lora: LocalArtifact
    evaluation: LocalArtifact

    @property
    def model(self) -> NewModel:
        weights = (self.lora.path / "lora.safetensors").read_bytes()
        return NewModel(
            name="icons",
            version=self.lora.sha256[:12],
            sha256=hashlib.sha256(weights).hexdigest(),
            base="emoji",
            trigger="icnx",
            overall=0.9,
            lora=self.lora.uri,
            evaluation=self.evaluation.uri,
            dataset=self.dataset.uri,
        )


class Maker:
    """Commits artifacts to a store as the runner does."""

    def __init__(self, settings: Settings, work: Path) -> None:
        self.store, self._work = open_store(settings), work

    def make(self, kind: Kind, stage: str, models: dict[str, str], **inputs: LocalArtifact) -> Path:
        folder = self._work / kind
        folder.mkdir(parents=True)
        self._draft = Manifest(
            kind=kind,
            stage=stage,
            stage_version=1,
            key=f"{kind}1",
            attempt="a1",
            spec={},
            inputs=tuple(
                InputEntry(name=name, manifest_uri=found.uri, sha256=found.sha256)
                for name, found in inputs.items()
            ),
            models=models,
            counts=Counts(seen=4, kept=4),
            code_version="0.1",
            created_at=datetime.now(UTC),
        )
        return folder

    def commit(self, folder: Path, stats: Any = None) -> LocalArtifact:
        draft = self._draft
        if stats is not None:
            draft = draft.model_copy(update={"stats": stats.model_dump(mode="json")})
        return self.store.fetch(self.store.commit(folder, draft))


def make_line(settings: Settings, work: Path) -> Line:
    """Make them all, four images long."""
    maker = Maker(settings, work)
    names = [hashlib.sha256(bytes([index])).hexdigest() for index in range(4)]
    urls = [f"https://gallery.example/{index}.png" for index in range(4)]

    folder = maker.make("raw", "crawl", {"topic_classifier": "sha256:" + "a" * 64})
    records = [
        RawRecord(sha256=name, file_name=f"images/{name}.png", url=url, width=64, height=64)
        for name, url in zip(names, urls, strict=True)
    ]
    write_jsonl(folder / "records.jsonl", records)
    raw = maker.commit(folder)

    folder = maker.make("clean", "sanitize", {"content_filter": "hub/filter@1"}, raw=raw)
    cleaned = [
        CleanRecord(
            sha256=name,
            file_name=f"images/{name}.png",
            url=url,
            text="",
            text_source="none",
            alignment=None,
            licence=licence,
            licence_evidence=f"{url}#licence",
            width=64,
            height=64,
        )
        for name, url, licence in zip(names, urls, LICENCES, strict=True)
    ]
    write_jsonl(folder / "records.jsonl", cleaned)
    clean = maker.commit(folder)

    folder = maker.make("dataset", "label", {}, clean=clean)
    for split, part in {"train": range(3), "validation": range(3, 4)}.items():
        (folder / split).mkdir()
        lines = []
        for index in part:
            file = f"{names[index]}.png"
            Image.new("RGB", (64, 64), (index, 0, 0)).save(folder / split / file)
            lines.append(
                DatasetRecord(
                    file_name=file,
                    text="icnx, a thing",
                    subject="a thing",
                    licence=LICENCES[index],
                    source=urls[index],
                    sha256=names[index],
                )
            )
        write_jsonl(folder / split / "metadata.jsonl", lines)
    dataset = maker.commit(folder)

    folder = maker.make("lora", "train", {"base:emoji": "sha256:" + "b" * 64}, dataset=dataset)
    (folder / "lora.safetensors").write_bytes(b"weights" * 100)
    lora = maker.commit(folder, TRAINED)

    folder = maker.make(
        "evaluation",
        "evaluate",
        {"image_text_scorer": "hub/clip@1", "captioner": "none"},
        lora=lora,
        dataset=dataset,
    )
    (folder / "README.md").write_text("# Model card\n")
    (folder / "report.json").write_text(JUDGED.model_dump_json())
    return Line(maker.store, raw, clean, dataset, lora, maker.commit(folder, JUDGED))
