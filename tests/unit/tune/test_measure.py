"""Measurements: spread of embeddings with pinned values, and damaged datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lora_factory.errors import ArtifactError
from lora_factory.tune.measure import measure_dataset, spread
from training_data import make_dataset


class Letters:
    """An embedder of its own kind: counts letters; unit rows."""

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = np.array([[text.count(chr(97 + i)) + 1e-3 for i in range(26)] for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_spread_is_one_minus_the_mean_cosine_of_pairs() -> None:
    assert spread(np.eye(5, dtype=np.float32)) == pytest.approx(1.0)
    assert spread(np.ones((7, 1), dtype=np.float32)) == pytest.approx(0.0)
    assert spread(np.eye(1, dtype=np.float32)) == 0.0
    half = np.array([[1, 0], [0.5, 0.75**0.5]], dtype=np.float32)
    assert spread(half) == pytest.approx(0.5)
    opposite = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    assert spread(opposite) == 1.0  # 2 before clipping


def test_spread_equals_the_trace_of_the_covariance() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 8)) + 2.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert spread(rows.astype(np.float32)) == pytest.approx(np.trace(np.cov(rows.T)), rel=1e-4)


def test_only_the_training_part_is_measured(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", train=6, validation=3)
    found = measure_dataset(dataset.path, Letters())
    assert (found.size, found.domain, found.resolution) == (6, "art", 64)
    arrays = dict(np.load(tmp_path / "d/embeddings.npz"))
    assert found.visual_variance == pytest.approx(spread(arrays["image"][3:]), rel=1e-5)
    assert 0 < found.semantic_diversity < 1
    text = np.tile(np.eye(1, 4, dtype=np.float32), (9, 1))
    np.savez(tmp_path / "d/embeddings.npz", **arrays, text=text)
    assert measure_dataset(dataset.path, Letters()).semantic_diversity == 0.0


def test_damaged_datasets_are_refused_in_one_line(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", train=6, validation=3)
    arrays = dict(np.load(tmp_path / "d/embeddings.npz"))
    embeddings = tmp_path / "d/embeddings.npz"
    np.savez(embeddings, sha256=arrays["sha256"][:-1], image=arrays["image"][:-1])
    with pytest.raises(ArtifactError, match="lacks"):
        measure_dataset(dataset.path, Letters())
    np.savez(embeddings, sha256=arrays["sha256"])
    with pytest.raises(ArtifactError, match="no usable array 'image'"):
        measure_dataset(dataset.path, Letters())
    np.savez(embeddings, sha256=arrays["sha256"].astype(object), image=arrays["image"])
    with pytest.raises(ArtifactError, match="can't be read"):
        measure_dataset(dataset.path, Letters())
    (tmp_path / "d/dataset.json").write_text("{")
    with pytest.raises(ArtifactError, match="label it again") as caught:
        measure_dataset(dataset.path, Letters())
    assert "\n" not in str(caught.value)
