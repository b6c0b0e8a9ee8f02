"""Dataset artifacts and stage contexts for tests of tune and train, from the demo's icons."""

from __future__ import annotations

import functools
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from lora_factory.contracts.manifest import Kind, Manifest
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import Measurements, TrainPlan
from lora_factory.diffusion.base import DiffusionBase
from lora_factory.diffusion.families import load_base
from lora_factory.models.profiles import PACKAGE, load_profile

ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))
TRIGGER = "hcxq"


def make_dataset(folder: Path, *, train: int, validation: int) -> LocalArtifact:
    """A dataset artifact of the first icons; embeddings are pixels, centred and normalised."""
    names, vectors = [], []
    for split, files in (
        ("validation", ICONS[:validation]),
        ("train", ICONS[validation : validation + train]),
    ):
        (folder / split).mkdir(parents=True)
        records = []
        for file in files:
            data = file.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            (folder / split / f"{sha256}.png").write_bytes(data)
            subject = file.stem.replace("-", " ")
            records.append(
                DatasetRecord(
                    file_name=f"{sha256}.png",
                    text=f"{TRIGGER} {subject}",
                    subject=subject,
                    licence="MIT",
                    source=f"http://gallery.test/{file.name}",
                    sha256=sha256,
                )
            )
            names.append(sha256)
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("L").resize((16, 16)), dtype=np.float32)
            centred = pixels.ravel() - pixels.mean()
            vectors.append(centred / np.linalg.norm(centred))
        write_jsonl(folder / split / "metadata.jsonl", records)
    np.savez(folder / "embeddings.npz", sha256=np.array(names), image=np.stack(vectors))
    info = DatasetInfo(
        trigger=TRIGGER,
        style="line",
        theme="icons",
        keywords=("icon",),
        domain="art",
        train=train,
        validation=validation,
        resolution=64,
    )
    (folder / "dataset.json").write_text(info.model_dump_json())
    return artifact(folder, "dataset")


def artifact(folder: Path, kind: Kind) -> LocalArtifact:
    """A folder as a committed artifact."""
    manifest = Manifest(
        kind=kind,
        stage="label",
        stage_version=1,
        key="0" * 24,
        attempt="a",
        spec={},
        code_version="test",
        created_at=datetime.now(UTC),
    )
    return LocalArtifact(folder, manifest, folder.as_uri(), "0" * 64)


def make_plan(**changes: object) -> TrainPlan:
    """A short training on the embedded base; without pictures on the way, which take time."""
    entry = load_profile("embedded", Settings()).base(None, "art")
    values: dict[str, object] = {
        "base": entry.name,
        "base_revision": entry.resolve_revision(),
        "domain": "art",
        "rank": 4,
        "alpha": 4.0,
        "target_modules": ("to_q", "to_k", "to_v", "conv1"),
        "learning_rate": 2e-3,
        "batch_size": 4,
        "epochs": 1,
        "steps": 8,
        "warmup_steps": 2,
        "resolution": 64,
        "options": {"samples": 0},
        "measurements": Measurements(
            size=8,
            semantic_diversity=0.5,
            visual_variance=0.5,
            domain="art",
            device="cpu",
            memory_gb=1,
            seconds_per_image=0.01,
        ),
    }
    return TrainPlan.model_validate(values | changes)


def plan_artifact(folder: Path, plan: TrainPlan) -> LocalArtifact:
    """A plan as an artifact."""
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.model_dump_json())
    return artifact(folder, "plan")


def context(work: Path, **inputs: LocalArtifact) -> StageContext:
    """A context whose ``out`` and ``scratch`` lie under ``work`` (made if need be)."""
    for name in ("out", "scratch"):
        (work / name).mkdir(parents=True, exist_ok=True)
    return StageContext(
        inputs=inputs,
        out=work / "out",
        scratch=work / "scratch",
        settings=Settings(scratch=work / "cache", threads=1),
    )


def read_rows(file: Path) -> list[dict[str, float]]:
    """Rows of ``training.jsonl``."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@functools.cache
def embedded_base() -> DiffusionBase:
    """The embedded base, loaded once a process; leave no adapter on it."""
    return load_base(load_profile("embedded", Settings()).base(None, "art"), device="cpu")
