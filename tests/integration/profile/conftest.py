"""A hub on loopback, a cache and a deployment of the test's own, and tiny real models."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from hub_models import make_models
from hub_server import Hub, Repo
from hub_site import TOML, Site, repos
from lora_factory.contracts.settings import Settings
from lora_factory.models.profiles import PACKAGE

STANDARD = PACKAGE / "profiles" / "standard.toml"
FOLDERS = {
    "text_embedder": "minilm",
    "image_text_scorer": "clip",
    "topic_classifier": "bart",
    "captioner": "blip",
    "content_filter": "nsfw",
    "sdxl": "sdxl",
    "sd15": "sd1",
    "waifu": "sd1",
}


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Hub], Path]:
    """Let this process's hub library reach one hub, with an empty cache; gives the cache."""

    def go(hub: Hub) -> Path:
        from huggingface_hub import constants

        cache = tmp_path / "hf" / "hub"
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        # The library keeps whole chunks only, of 10 MB by default.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        return cache

    return go


@pytest.fixture
def site(online: Callable[[Hub], Path], tmp_path: Path) -> Iterator[Site]:
    with Hub(repos()).running() as hub:
        (tmp_path / "profiles").mkdir()
        made = Site(hub, Settings(profiles=tmp_path / "profiles"), online(hub))
        made.write(TOML)
        yield made


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with tiny models of the real classes, made once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "tiny-models"
    with FileLock(f"{folder}.lock"):
        if not (folder / "pickled").is_dir():
            make_models(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_hub(tiny_models: Path) -> dict[str, Repo]:
    """Repositories of the names and commits of profile ``standard``."""
    shipped = tomllib.loads(STANDARD.read_text())
    entries = {**shipped["roles"], **shipped["bases"]}
    found = {}
    for name, folder in FOLDERS.items():
        entry = entries[name]
        commit = entry["revision"] if len(entry["revision"]) == 40 else "7" * 40
        found[entry["model"]] = Repo.of(tiny_models / folder, commit)
    return found


@pytest.fixture
def standard_like(
    tiny_hub: dict[str, Repo], online: Callable[[Hub], Path], tmp_path: Path
) -> Iterator[Site]:
    """Profile ``standard`` as it is shipped, but small, and its hub."""
    text = re.sub(r"resolution = \d+", "resolution = 64", STANDARD.read_text())
    start = text.index("[roles.text_embedder.hashes]")
    text = text[:start] + text[text.index("[", start + 1) :]
    with Hub(dict(tiny_hub)).running() as hub:
        (tmp_path / "profiles").mkdir()
        settings = Settings(
            profiles=tmp_path / "profiles",
            store=(tmp_path / "store").as_uri(),
            scratch=tmp_path / "scratch",
            min_images=4,
            threads=1,
        )
        made = Site(hub, settings, online(hub))
        made.write(text)
        yield made
