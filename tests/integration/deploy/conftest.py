"""A hub that can be published to, which this process's hub library reaches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub_repositories import TOKEN, Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Empty; only namespace ``factory`` may be written to."""
    from huggingface_hub import constants

    with Hub().running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield running
