"""Hard gates, each against what it is there to stop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lora_factory.contracts.evaluation import Comparison
from lora_factory.errors import ModelError
from lora_factory.evaluate import gates
from lora_factory.evaluate.metrics import Matches, Pairs, Readable
from lora_factory.guard.copying import Cuts, Nearest
from lora_factory.guard.output import Finding


def noise(count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(count, 16, 16, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"a": torch.ones(2), "b": torch.tensor([1.0, bad])}, file)
    gate = gates.finite_weights(file)
    assert not gate.passed
    assert "b holds NaN or Inf" in gate.detail


def test_finite_weights(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, file)
    assert gates.finite_weights(file).passed


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 100])
def test_a_damaged_file_is_an_error_not_a_verdict(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"lora\.safetensors can't be read"):
        gates.finite_weights(file)


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        gates.finite_weights(tmp_path / "lora.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ModelError, match="holds no weights"):
        gates.finite_weights(tmp_path / "empty.safetensors")


def test_a_lora_that_changes_nothing() -> None:
    images = noise(6, 0)
    assert not gates.effect(images, images).passed
    assert gates.effect(images, noise(6, 1)).passed


def test_blank_pictures() -> None:
    fine = noise(20, 0)
    black = Image.new("RGB", (16, 16))
    dirty = np.full((16, 16, 3), 250, dtype=np.uint8) + noise_grain()
    assert gates.no_blank_images(fine).passed
    assert gates.no_blank_images([*fine[:19], black]).passed  # one in twenty
    assert not gates.no_blank_images([*fine[:18], black, black]).passed
    assert not gates.no_blank_images([Image.fromarray(dirty)]).passed


def noise_grain() -> np.ndarray:
    return np.random.default_rng(9).integers(0, 4, size=(16, 16, 3), dtype=np.uint8)


CUTS = Cuts(0.98, 0.9, 6, 20, 100)


def test_copies() -> None:
    free, copied = Nearest(0, 0.8, 20, False), Nearest(0, 0.99, 0, True)
    assert gates.no_copies([free] * 20, CUTS).passed
    assert gates.no_copies([free] * 19 + [copied], CUTS).passed  # chance explains one
    assert gates.no_copies([free] * 22 + [copied] * 2, CUTS).passed  # p = 0.08
    gate = gates.no_copies([free] * 21 + [copied] * 3, CUTS)
    assert not gate.passed
    assert gate.detail.startswith("3 of 24 repeat a training image, 0 verbatim")
    verbatim = replace(copied, verbatim=True)
    assert not gates.no_copies([free] * 23 + [verbatim], CUTS).passed
    assert not gates.no_copies([], CUTS).passed


def test_a_style_that_the_scorer_cannot_tell_from_the_base() -> None:
    rng = np.random.default_rng(0)
    same = rng.normal(size=(8, 16)).astype(np.float32)
    same /= np.linalg.norm(same, axis=1, keepdims=True)
    pairs = Pairs(same, same, np.arange(8), same, same)
    assert not gates.style_measurable(pairs).passed


@pytest.mark.parametrize(
    ("ratio", "p_value", "error", "passed"),
    [
        (1.0, 0.001, 0.1, True),
        (0.3, 0.001, 0.25, True),  # low, but it may be chance
        (0.0, 0.001, 0.25, False),
        (0.3, 0.001, 0.05, False),
        (-1.0, 0.5, float("inf"), True),  # a blind scorer accuses nobody
    ],
)
def test_subjects_that_are_plainly_missing(
    ratio: float, p_value: float, error: float, passed: bool
) -> None:
    assert gates.shows_subjects(ratio, Readable(p_value, error), 0.5).passed == passed


@pytest.mark.parametrize(
    ("base", "lora", "passed"),
    [(0.001, 0.01, True), (0.001, 0.4, False), (0.3, 0.4, True)],
)
def test_pictures_that_do_not_match_their_own_words(base: float, lora: float, passed: bool) -> None:
    coarse, blind = Readable(0.02, 0.8), Readable(0.5, float("inf"))
    assert gates.shows_subjects(0.3, coarse, 0.5, Matches(base, lora)).passed == passed
    assert gates.shows_subjects(0.3, blind, 0.5, Matches(base, lora)).passed


def test_one_picture_that_the_guard_refuses_closes_the_gate() -> None:
    fine, bad = Finding(True, "", 0.1, ""), Finding(False, "unsafe_image", 0.9, "filter 0.900")
    assert gates.safe_images([fine] * 8).passed
    gate = gates.safe_images([*[fine] * 7, bad])
    assert not gate.passed
    assert gate.detail == (
        "1 of 8 pictures are refused by the output guard (unsafe_image 1); worst: filter 0.900"
    )


def test_a_guard_that_saw_nothing_passes_nothing() -> None:
    assert not gates.safe_images([]).passed


def comparison(low: float, high: float) -> Comparison:
    middle = (low + high) / 2
    return Comparison(
        lora="file:///lora",
        checkpoint="lora.safetensors",
        overall=0.9,
        incumbent=0.9 - middle,
        difference=middle,
        low=low,
        high=high,
        n=24,
    )


@pytest.mark.parametrize(
    ("low", "high", "passed"),
    [
        (0.01, 0.05, True),
        (-0.01, 0.09, False),  # better, but it may be chance
        (0.0, 0.0, False),  # the very same
        (-0.09, -0.01, False),
    ],
)
def test_the_deployed_model_stays_unless_beaten(low: float, high: float, passed: bool) -> None:
    gate = gates.beats_incumbent(comparison(low, high))
    assert gate.passed == passed
    assert "on 24 pairs" in gate.detail


def test_a_deployed_model_that_cannot_be_drawn_is_not_beaten() -> None:
    assert not gates.no_comparison("its base has changed").passed


@pytest.mark.parametrize(("low", "passed"), [(0.05, True), (0.0, False), (-0.2, False)])
def test_pictures_that_follow_their_prompts_by_chance(low: float, passed: bool) -> None:
    sight, own = Readable(0.001, 0.2), Matches(base=0.001, lora=0.1)
    assert gates.shows_subjects(1.0, sight, 0.5, own, low).passed is passed
    blind = Readable(0.5, 0.2)  # accuses nobody
    assert gates.shows_subjects(1.0, blind, 0.5, own, low).passed
