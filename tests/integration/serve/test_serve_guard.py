"""The guard over real HTTP: what it refuses never leaves, and without it nothing is served."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL.Image import Image

from lora_factory.contracts.settings import Settings
from lora_factory.diffusion.families import load_base
from lora_factory.guard.images import ImageFilter
from lora_factory.guard.meaning import prompt_filter
from lora_factory.guard.output import OutputGuard
from lora_factory.guard.provenance.marks import image_marker
from lora_factory.models.profiles import Profile, load_profile
from lora_factory.serve.app import create_app
from lora_factory.serve.engine import Engine
from lora_factory.serve.guards import Guards, load_guards
from lora_factory.serve.services import ServeConfig
from lora_factory.store.catalog import Catalog

pytestmark = pytest.mark.integration
EMBEDDED = load_profile("embedded", Settings())
DRAW = {"prompt": "a red apple", "seed": 7, "steps": 1}


class Everything:
    """In the model's place: finds every picture unsafe."""

    name, threshold = "stub@1", 0.5

    def scores(self, images: Sequence[Image]) -> NDArray[np.float32]:
        return np.ones(len(images), dtype=np.float32)


@contextmanager
def serving(
    dsn: str, data: Path, guards: Callable[[], Guards], *, ready: int
) -> Iterator[TestClient]:
    """The app with the embedded base and guards, once /readyz has answered ``ready``."""
    entry = EMBEDDED.base("emoji", "art")
    engine = Engine(functools.partial(load_base, entry), guards)
    marker = image_marker(Settings(), data / "provenance")
    config = ServeConfig(data=data, base=entry, catalog=Catalog(dsn), marker=marker, public=1000)
    app = create_app(config, engine)
    with TestClient(app) as client:
        deadline = time.monotonic() + 30
        while "being loaded" in (answer := client.get("/readyz")).text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer.status_code == ready, answer.text
        yield client


def without(role: str) -> Profile:
    entry = EMBEDDED.role(role).model_copy(update={"package": "no_such_wheel:"})
    return EMBEDDED.model_copy(update={"roles": EMBEDDED.roles | {role: entry}})


def test_a_picture_that_the_guard_refuses_is_a_422_and_counted(
    catalog_dsn: str, tmp_path: Path
) -> None:
    guards = Guards(prompt_filter(EMBEDDED), OutputGuard([ImageFilter(Everything())]))
    with serving(catalog_dsn, tmp_path, lambda: guards, ready=200) as client:
        answer = client.post("/v1/generate", json=DRAW)
        assert answer.status_code == 422
        assert answer.json() == {
            "error": "picture: refused by the content rules",
            "rule": "unsafe_image",
        }
        prompt = client.post("/v1/generate", json=DRAW | {"prompt": "p0rn"})
        assert prompt.json() == {"error": "prompt: refused by the content rules", "rule": "sexual"}
        told = client.post("/v1/generate", json=DRAW | {"prompt": "a man with nothing on at all"})
        assert told.json() == {"error": "prompt: refused by the content rules", "rule": "meaning"}
        text = client.get("/metrics").text
    assert 'lora_safety_blocks_total{rule="unsafe_image"} 1.0' in text
    assert 'lora_safety_blocks_total{rule="sexual"} 1.0' in text
    assert 'lora_safety_blocks_total{rule="meaning"} 1.0' in text
    assert 'lora_generations_total{adapter="base"} 1.0' in text


@pytest.mark.parametrize("role", ["content_filter", "text_embedder"])
def test_without_a_guards_model_nothing_is_served(
    catalog_dsn: str, tmp_path: Path, role: str
) -> None:
    guards = functools.partial(load_guards, without(role), Settings())
    with serving(catalog_dsn, tmp_path, guards, ready=503) as client:
        ready = client.get("/readyz").json()["error"]
        assert "the guard can't be loaded" in ready
        assert "pip install it" in ready
        answer = client.post("/v1/generate", json=DRAW)
        assert answer.status_code == 503
        assert set(answer.json()) == {"error"}


def test_with_the_embedded_guards_a_picture_leaves(catalog_dsn: str, tmp_path: Path) -> None:
    guards = functools.partial(load_guards, EMBEDDED, Settings(threads=1))
    with serving(catalog_dsn, tmp_path, guards, ready=200) as client:
        assert client.post("/v1/generate", json=DRAW).json()["image"]
