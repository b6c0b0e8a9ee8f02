"""The data stages, tune and a short training on profile ``standard``, small, pulled from a hub.

The models' weights are random, so what is asserted is that each stage loads the pulled files,
offline, and ends with an artifact; not what the models find.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from hub_site import Site
from lora_factory.contracts.settings import Settings
from lora_factory.demo.site import GallerySite
from lora_factory.models.profiles import PACKAGE
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import open_store

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))[:40]
TOPICS = ["icons of animals, food and objects"]
ALL_ALIKE = {"image_similarity": 1.0, "text_similarity": 1.0, "alignment_percentile": 0.0}


@pytest.fixture
def settings(standard_like: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A deployment whose profile is pulled and whose hub is gone."""
    from huggingface_hub import constants

    assert standard_like.pull() == {}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, file in enumerate(ICONS):
        (folder / file.name).write_bytes(file.read_bytes())
        if number % 4:  # the others are for the captioner
            caption = f"An icon of a {file.stem.replace('-', ' ')}."
            (folder / f"{file.stem}.txt").write_text(caption)
    return standard_like.settings.model_copy(update={"folders": {"mine": folder}})


def test_from_a_folder_to_a_lora(settings: Settings) -> None:
    def stage(name: str, **spec: Any) -> str:
        return run_stage(name, {"profile": "mine", **spec}, settings).manifest_uri

    def stats(uri: str) -> dict[str, Any]:
        return open_store(settings).read_manifest(uri).stats

    as_of = date(2026, 11, 24)
    raw = stage("crawl", topics=TOPICS, source="folder", folder="mine", as_of=as_of)
    clean = stage("sanitize", raw=raw, **ALL_ALIKE)
    assert stats(clean)["counts"]["kept"] >= 8, stats(clean)["counts"]
    assert stats(clean)["text_changes"]["generated"] > 0  # by the BLIP
    data = stage("label", clean=clean, topics=TOPICS, trigger="zqsgn")
    assert set(stats(data)["trigger_tokens"]) == {"sdxl", "sd15", "waifu"}
    plan = stage("tune", dataset=data, epochs=1, max_minutes=0.01)
    lora = stage("train", dataset=data, plan=plan)
    assert stats(plan)["plan"]["base"] == "sdxl"
    trained = open_store(settings).read_manifest(lora)
    assert trained.stats["steps"] >= 2
    assert "lora.safetensors" in {file.path for file in trained.files}
    for uri, role in ((clean, "image_text_scorer"), (clean, "content_filter"), (data, "bases")):
        models = open_store(settings).read_manifest(uri).models
        commits = [value for name, value in models.items() if name == role or role == "bases"]
        assert commits
        assert any("@" in value for value in commits)


def test_pages_are_judged_by_the_nli_model(settings: Settings, tmp_path: Path) -> None:
    """In a process of its own, as the reactor needs it; the cache is its only way to models."""
    from huggingface_hub import constants

    with GallerySite() as site:
        spec = {
            "profile": "mine",
            "topics": TOPICS,
            "seeds": [site.url],
            "as_of": "2026-11-24",
            "max_pages": 6,
            "max_images": 20,
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        environ = {
            **os.environ,
            "PYTHONPATH": str(PACKAGE.parent),
            "HF_HUB_CACHE": str(constants.HF_HUB_CACHE),
            "LORA_FACTORY_PROFILES": str(settings.profiles),
            "LORA_FACTORY_STORE": settings.store,
            "LORA_FACTORY_SCRATCH": str(settings.scratch),
            "LORA_FACTORY_CRAWL_HOSTS": site.host,
            "LORA_FACTORY_CRAWL_PUBLIC": "false",
            "LORA_FACTORY_THREADS": "1",
        }
        command = [sys.executable, "-m", "lora_factory", "crawl"]
        arguments = ["--spec", str(tmp_path / "spec.json"), "--report", str(tmp_path / "r.json")]
        done = subprocess.run(
            [*command, *arguments], env=environ, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    found = open_store(settings).read_manifest(
        json.loads((tmp_path / "r.json").read_text())["manifest_uri"]
    )
    assert found.counts.kept > 0
    assert found.models["topic_classifier"].startswith("facebook/bart-large-mnli@d7645e12")
