"""A running serving app, as tests speak to it (fixture ``server`` of tests/integration)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ADMIN_KEY = "key-of-the-tests"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@dataclass(frozen=True)
class Server:
    """A serving app over real HTTP, with its own catalog."""

    url: str
    dsn: str
    data: Path
    client: httpx.Client

    def publish(self, file: Path, **changes: Any) -> httpx.Response:
        """POST a LoRA as administrator; its version is the head of its sha256."""
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        metadata = {
            "name": "icons",
            "version": sha256[:12],
            "sha256": sha256,
            "base": "emoji",
            "trigger": "icnx",
            "overall": 0.9,
            "lora": "file:///store/lora/k/manifest.json",
            "evaluation": "file:///store/evaluation/k/manifest.json",
        } | changes
        return self.client.post(
            "/v1/adapters",
            data={"metadata": json.dumps(metadata)},
            files={"lora": ("lora.safetensors", file.read_bytes())},
            headers=ADMIN,
        )

    def promote(self, version: str, name: str = "icons") -> httpx.Response:
        """Make a version live."""
        body = {"version": version}
        return self.client.post(f"/v1/adapters/{name}/promote", json=body, headers=ADMIN)

    def draw(self, **body: Any) -> httpx.Response:
        """Ask for a picture in two steps, as anybody."""
        body = {"prompt": "a red apple", "seed": 7, "steps": 2} | body
        return self.client.post("/v1/generate", json=body)
