"""What a container in a cloud does, as the fakes of the clouds play it: draws coloured tiles.

The real ones are run by tests/integration/serve/test_serve_release*.py on the embedded base.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lora_factory.contracts.cloud import DIGEST, NOTE, URI, WEIGHTS, AwsAccess, ReleaseNote
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.serving import Failure, GenerateRequest, GenerateResponse
from lora_factory.deploy.target import Release
from lora_factory.store.buckets import open_bucket

TRAINED = Path(__file__).parent / "calibration/adapters/carbon/good-0.safetensors"
"""A LoRA of the embedded base."""


@dataclass
class Container:
    """Answers as the release that its environment names."""

    access: AwsAccess | None = None
    spoiled: set[str] = field(default_factory=set)
    """Versions that draw what the base draws."""
    broken_steps: int | None = None
    """Requests for so many steps get a 500."""
    asked: list[GenerateRequest] = field(default_factory=list)

    def answer(self, environment: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        request = GenerateRequest.model_validate_json(body)
        self.asked.append(request)
        note = self.note(environment)
        if request.steps is not None and request.steps == self.broken_steps:
            return 500, Failure(error="broken").model_dump_json().encode()
        if request.adapter not in {None, note.name}:
            return 404, Failure(error=f"no adapter {request.adapter}").model_dump_json().encode()
        worn = request.adapter is not None
        seen = note.sha256 if worn and note.version not in self.spoiled else note.base
        drawn = GenerateResponse(
            image=_tiles(f"{seen} {request.prompt} {request.seed}"),
            generation_id="1",
            adapter=note.name if worn else None,
            version=note.version if worn else None,
            seed=request.seed or 0,
            seconds=0.1,
            rating_token=None,
            marks=("c2pa",),
        )
        return 200, drawn.model_dump_json().encode()

    def note(self, environment: Mapping[str, str]) -> ReleaseNote:
        """The release's note, its weights verified."""
        store = open_bucket(environment[URI], self.access)
        data = bytes(store.get(NOTE).bytes())
        assert hashlib.sha256(data).hexdigest() == environment[DIGEST]
        note = ReleaseNote.model_validate_json(data)
        weights = bytes(store.get(WEIGHTS).bytes())
        assert hashlib.sha256(weights).hexdigest() == note.sha256
        return note


def release(folder: Path, name: str, seed: int, weights: Path | None = None) -> Release:
    """A release folder; without a file of weights they are only bytes."""
    folder = folder / f"{name}-{seed}"
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "lineage.json").write_text("places of the deployment's own")
    (folder / "README.md").write_text("# A card")
    (folder / f"samples/{seed}.png").write_bytes(b"a picture")
    file = folder / WEIGHTS
    file.write_bytes(weights.read_bytes() if weights else f"{name} {seed}".encode() * 30)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    model = NewModel(
        name=name,
        version=digest[:12],
        sha256=digest,
        base="emoji",
        trigger="icnx",
        overall=0.9,
        lora="file:///lora",
        evaluation="file:///evaluation",
    )
    return Release(model=model, file=file, folder=folder, prompt="icnx, a red apple")


def _tiles(seed: str) -> str:
    pixels = b"".join(hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(6))
    png = io.BytesIO()
    Image.frombytes("RGB", (8, 8), pixels).resize((64, 64), Image.Resampling.NEAREST).save(
        png, "PNG"
    )
    return base64.b64encode(png.getvalue()).decode()
