"""Places that can be published to: a hub, and clouds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aws_cloud import AwsCloud
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


@pytest.fixture
def aws_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsCloud]:
    """An AWS of the test's own; boto3 asks it once and not again."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with AwsCloud().running() as cloud:
        yield cloud
