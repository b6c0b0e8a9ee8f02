"""What every test shares: an environment of its own and no way out of the machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import hypothesis
import pytest

from lora_factory.contracts.settings import PREFIX, Settings

# pytest-timeout ends what hangs; how long one example takes says how busy the machine is.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No LORA_FACTORY_* of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A deployment with a local store and scratch folder of the test's own."""
    return Settings(
        store=(tmp_path / "store").as_uri(), scratch=tmp_path / "scratch", min_images=4, threads=1
    )


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
