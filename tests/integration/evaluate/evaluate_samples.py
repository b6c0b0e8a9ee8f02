"""Makers of what evaluation is tested on: a small dataset, a quick LoRA, sabotaged copies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import lora_factory.demo
from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, read_jsonl, write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import StageContext
from lora_factory.diffusion.families import load_base
from lora_factory.models.profiles import load_profile

ICONS = Path(lora_factory.demo.__file__).parent / "gallery" / "icons"
TRIGGER = "ohcx"
Run = Callable[..., StageContext]


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
    mean, std = base.encode_images(images, 64)
    text = base.encode_prompts([record.text for record in records])
    weights = base.add_adapter("fresh", 8, 8, entry.targets)
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    dice = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 5, (steps - step) / 15)
        pick = torch.randint(len(records), (12,), generator=dice)
        latents = mean[pick] + std[pick] * torch.randn(mean[pick].shape, generator=dice)
        times = ((torch.arange(12) + torch.rand(12, generator=dice)) / 12 * 999).long()
        noised, target = base.add_noise(latents, torch.randn(latents.shape, generator=dice), times)
        loss = (base.predict(noised, times, text[pick]) - target).square().mean()
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
