"""A hub on loopback, a cache and a deployment of the test's own, and tiny real models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from hub_models import make_models
from hub_server import Hub
from hub_site import TOML, Site, repos
from lora_factory.contracts.settings import Settings


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
