"""Makers of what evaluation is tested on: a small dataset, a quick LoRA, sabotaged copies."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import lora_factory.demo
from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, read_jsonl, write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import TrainReport
from lora_factory.diffusion.families import load_base
from lora_factory.models.profiles import load_profile

ICONS = Path(lora_factory.demo.__file__).parent / "gallery" / "icons"
TRIGGER = "ohcx"
Run = Callable[..., StageContext]
NONE: Mapping[str, Path] = MappingProxyType({})


def make_dataset(folder: Path, train: int, validation: int) -> Path:
    """A dataset artifact's folder, of the demo's icons (without stored embeddings)."""
    files = sorted(ICONS.glob("*.png"))[:: 2 if train + validation < 70 else 1]
    records: dict[str, list[DatasetRecord]] = {"validation": [], "train": []}
    for number, file in enumerate(files[: train + validation]):
        part = "validation" if number < validation else "train"
        sha = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / part).mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.convert("RGB").save(folder / part / f"{sha}.png")
        subject = file.stem.replace("-", " ")
        records[part].append(
            DatasetRecord(
                file_name=f"{sha}.png",
                text=f"{TRIGGER} {subject}, outline icon",
                subject=subject,
                licence="MIT",
                source="https://example.org",
                sha256=sha,
            )
        )
    for part, found in records.items():
        if found:
            write_jsonl(folder / part / "metadata.jsonl", found)
    info = DatasetInfo(
        trigger=TRIGGER,
        style="outline icon",
        theme="things",
        keywords=("icon",),
        domain="art",
        train=train,
        validation=validation,
        resolution=64,
    )
    (folder / "dataset.json").write_text(info.model_dump_json())
    return folder


def train_lora(dataset: Path, file: Path, steps: int = 45) -> None:
    """A plain LoRA training loop: enough for the style, not for shapes."""
    torch.set_num_threads(1)
    entry = load_profile("embedded", Settings()).bases["emoji"]
    base = load_base(entry)
    records = list(read_jsonl(dataset / "train" / "metadata.jsonl", DatasetRecord))
    images = []
    for record in records:
        with Image.open(dataset / "train" / record.file_name) as image:
            images.append(image.convert("RGB"))
    mean, std = base.encode_images(images)
    (text,) = base.encode_texts([record.text for record in records]).values()
    weights = base.add_adapter("fresh", 8, 8, entry.targets)
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    dice = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 5, (steps - step) / 15)
        pick = torch.randint(len(records), (12,), generator=dice)
        latents = mean[pick] + std[pick] * torch.randn(mean[pick].shape, generator=dice)
        times = ((torch.arange(12) + torch.rand(12, generator=dice)) / 12 * 999).long()
        noised, target = base.add_noise(latents, torch.randn(latents.shape, generator=dice), times)
        loss = (base.predict(noised, times, {"text_encoder": text[pick]}) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    base.save_adapter("fresh", file, {})


def sabotage(lora: Path, file: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a LoRA file with every ``lora_up`` changed."""
    weights = load_file(lora)
    save_file(
        {k: (change(v) if "lora_B" in k else v).contiguous() for k, v in weights.items()}, file
    )
    return file


def manifest(kind: str, stats: dict[str, Any], models: dict[str, str]) -> Manifest:
    return Manifest.model_validate({
        "kind": kind,
        "stage": kind,
        "stage_version": 1,
        "key": "k",
        "attempt": "a",
        "spec": {},
        "stats": stats,
        "models": models,
        "code_version": "0",
        "created_at": datetime.now(UTC),
    })


def lora_artifact(
    folder: Path, file: Path, models: dict[str, str], checkpoints: Mapping[str, Path]
) -> LocalArtifact:
    """An artifact of a LoRA file and earlier snapshots of it."""
    for name, source in {"lora.safetensors": file, **checkpoints}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    trained = TrainReport(
        base="emoji",
        trigger=TRIGGER,
        rank=8,
        steps=45,
        best_step=45,
        train_loss=0.6,
        validation_loss_before=0.8,
        validation_loss=0.6,
        images_per_second=20,
        peak_memory_mb=900,
        checkpoints=tuple(checkpoints),
    )
    made = manifest("lora", trained.model_dump(mode="json"), models)
    return LocalArtifact(folder, made, f"file://{folder}", "0" * 64)


def make_context(
    folder: Path,
    machine: Path,
    lora: Path,
    dataset: Path,
    base_revision: str | None = None,
    checkpoints: Mapping[str, Path] = NONE,
    incumbent: Path | None = None,
    **settings: Any,
) -> StageContext:
    """What the runner would hand to the stage.

    Args:
        folder: of this evaluation.
        machine: working folder that evaluations share.
        lora: file to judge.
        dataset: folder.
        base_revision: that the LoRA was trained on, if its manifest tells.
        checkpoints: name → file, earlier snapshots.
        incumbent: the deployed LoRA's file.
        settings: of the deployment.
    """
    for name in ("out", "scratch"):
        (folder / name).mkdir()
    models = {"base:emoji": base_revision} if base_revision else {}
    inputs = {
        "lora": lora_artifact(folder / "lora", lora, models, checkpoints),
        "dataset": LocalArtifact(dataset, manifest("dataset", {}, {}), "file:///dataset", "0" * 64),
    }
    if incumbent is not None:
        inputs["incumbent"] = lora_artifact(folder / "incumbent", incumbent, {}, {})
    given = Settings(threads=1, scratch=machine, **settings)
    return StageContext(inputs, folder / "out", folder / "scratch", given)
