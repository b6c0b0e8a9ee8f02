"""Aspect buckets, crops, captions: what of a dataset training sees."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_factory.contracts.stage import LocalArtifact
from lora_factory.diffusion.base import DiffusionBase
from lora_factory.errors import ArtifactError
from lora_factory.train.cache import open_cache
from lora_factory.train.data import MAX_ASPECT, Shape, Split, bucket_shape, load_split
from lora_factory.train.sampling import Sampler, probe_batches, split_batch
from training_data import artifact, context, make_plan, plan_artifact

WIDE, TALL = (160, 96), (60, 100)


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    dice = np.random.default_rng(seed)
    small = Image.fromarray(dice.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def make_dataset(folder: Path, sizes: list[tuple[int, int]], texts: list[str]) -> LocalArtifact:
    (folder / "train").mkdir(parents=True)
    lines = []
    for number, (size, text) in enumerate(zip(sizes, texts, strict=True)):
        file = folder / "train" / f"{number}.png"
        picture(size, number).save(file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        record = {"file_name": file.name, "text": text, "subject": text, "sha256": sha256}
        lines.append(json.dumps({**record, "licence": "MIT", "source": "http://x.test/"}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return artifact(folder, "dataset")


def load(
    tmp_path: Path,
    base: DiffusionBase,
    sizes: list[tuple[int, int]],
    texts: list[str] | None = None,
    **changes: object,
) -> Split:
    dataset = make_dataset(
        tmp_path / "d", sizes, texts or [f"thing {n}" for n in range(len(sizes))]
    )
    plan = make_plan(**changes)
    ctx = context(tmp_path / "w", dataset=dataset, plan=plan_artifact(tmp_path / "p", plan))
    with open_cache(ctx.settings) as cache:
        split = load_split("train", plan, base, ctx, cache)
    assert split is not None
    return split


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([(64, 16), (512, 64), (1024, 64), (768, 64)]),
)
def test_a_bucket_has_the_area_and_the_nearest_aspect(
    width: int, height: int, base: tuple[int, int]
) -> None:
    resolution, multiple = base
    shape = bucket_shape((width, height), resolution, multiple)
    assert shape.width % multiple == shape.height % multiple == 0
    assert shape.width * shape.height <= resolution**2
    assert max(shape) / min(shape) <= MAX_ASPECT
    assert bucket_shape((height, width), resolution, multiple) == Shape(shape.height, shape.width)
    if width == height:
        assert shape == (resolution, resolution)


def test_known_shapes() -> None:
    assert bucket_shape((1920, 1080), 1024, 64) == (1344, 768)  # as in SDXL's appendix I
    assert bucket_shape((832, 1216), 1024, 64) == (832, 1216)
    assert bucket_shape((5000, 100), 512, 64) == (640, 384)
    assert bucket_shape((100, 99), 64, 16) == (64, 64)


def test_pictures_keep_their_aspect_and_batches_their_shape(
    tmp_path: Path, base: DiffusionBase
) -> None:
    sizes = [(64, 64)] * 4 + [WIDE] * 2 + [TALL]
    split = load(tmp_path, base, sizes)
    assert split.shapes == {"64×64": 4, "80×48": 2, "48×80": 1}
    assert [tuple(b.mean.shape) for b in split.buckets] == [
        (1, 2, 4, 8, 16, 16),
        (1, 2, 2, 8, 12, 20),
        (1, 2, 1, 8, 20, 12),
    ]
    sampler = Sampler(make_plan(batch_size=3), split, base)
    home = {row: number for number, b in enumerate(split.buckets) for row in b.rows}
    seen: Counter[int] = Counter()
    turns: Counter[int] = Counter()
    for step in range(2 * len(split)):
        batch = sampler.batch(step)
        (bucket,) = {home[row] for row in batch.indices}
        assert batch.latents.shape[1:] == split.buckets[bucket].mean.shape[3:]
        assert batch.noise.shape == batch.latents.shape
        turns[bucket] += 1
        seen.update(batch.indices)
        again = Sampler(make_plan(batch_size=3), split, base).batch(step)
        assert torch.equal(batch.latents, again.latents)
    assert turns == {0: 8, 1: 4, 2: 2}  # as many as the bucket has images, in each lap
    assert set(seen.values()) == {6}  # whatever the bucket, an image is seen as often
    with torch.no_grad():
        for probe in probe_batches(split, base):
            for part in split_batch(probe, 4):
                made = base.predict(part.latents, part.timesteps, part.text, part.sizes)
                assert made.shape == part.latents.shape
    assert sum(len(probe) for probe in probe_batches(split, base)) == 32


def test_sizes_tell_what_was_cut(tmp_path: Path, base: DiffusionBase) -> None:
    split = load(tmp_path, base, [(200, 100), WIDE], options={"crops": 2})
    wide, *_ = split.buckets
    assert wide.shape == (80, 48)
    rows = wide.sizes.long()
    # 200×100 is cut to 166.7×100, then scaled by 0.48; 160×96 fits whole.
    assert rows[0, 0].tolist() == [[100, 200, 0, 8, 48, 80], [96, 160, 0, 0, 48, 80]]
    assert torch.equal(rows[0, 0], rows[0, 1])  # a centred cut is its own mirror image
    left, right = rows[1, :, 1, 3].tolist()
    assert (left, right) == (0, 11)  # closer by 1/8, in the left corner; its mirror image


def test_crops_differ_and_each_is_drawn(tmp_path: Path, base: DiffusionBase) -> None:
    split = load(tmp_path, base, [(64, 64)] * 2, options={"crops": 3}, flip=False)
    (bucket,) = split.buckets
    assert bucket.mean.shape[:3] == (3, 1, 2)
    assert not torch.allclose(bucket.mean[0], bucket.mean[1], atol=0.1)
    sampler = Sampler(make_plan(batch_size=40, flip=False), split, base)
    tops = Counter(sampler.batch(0).sizes[:, 2].tolist())
    assert len(tops) == 2  # crops 0 and 1 start at the top, crop 2 at the bottom
    assert min(tops.values()) > 5


def test_tags_are_shuffled_after_the_first_and_the_same_each_time(
    tmp_path: Path, base: DiffusionBase
) -> None:
    texts = ["a cat, red, small, round", "dog"]
    split = load(tmp_path, base, [(64, 64)] * 2, texts, options={"tag_shuffles": 2})
    (text,) = split.text.values()
    assert text.shape[:2] == (3, 2)
    assert torch.equal(text[0, 1], text[2, 1])  # nothing to shuffle
    orders = [
        base.encode_texts([f"a cat, {', '.join(tags)}"])["text_encoder"]
        for tags in permutations(("red", "small", "round"))
    ]
    for variant in range(3):
        (near,) = [o for o in orders if torch.allclose(o[0], text[variant, 0], atol=1e-4)]
        assert near is orders[0] or variant
    again = load(tmp_path / "again", base, [(64, 64)] * 2, texts, options={"tag_shuffles": 2})
    assert torch.allclose(*again.text.values(), text, atol=1e-5)


def test_captions_that_are_cut_are_counted(
    tmp_path: Path, base: DiffusionBase, caplog: pytest.LogCaptureFixture
) -> None:
    split = load(tmp_path, base, [(64, 64)] * 3, ["cat", "a " * 31, "a " * 30])
    assert split.cut_captions == 1
    assert "1 of 3 captions are longer" in caplog.text
    assert "1.png" in caplog.text


def test_an_image_turned_by_its_exif_goes_to_the_bucket_of_what_is_seen(
    tmp_path: Path, base: DiffusionBase
) -> None:
    dataset = make_dataset(tmp_path / "d", [WIDE], ["thing"])
    file = dataset.path / "train" / "0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(WIDE, 0).save(file, exif=exif)
    plan = make_plan()
    ctx = context(tmp_path / "w", dataset=dataset, plan=plan_artifact(tmp_path / "p", plan))
    with open_cache(ctx.settings) as cache:
        split = load_split("train", plan, base, ctx, cache)
        assert split is not None
        assert split.shapes == {"48×80": 1}
        file.write_bytes(file.read_bytes()[:60])  # the header is whole, the picture isn't
        with pytest.raises(ArtifactError, match=r"0\.png can't be decoded"):
            load_split("train", plan, base, ctx, cache)
        (dataset.path / "train" / "metadata.jsonl").write_text("")
        assert load_split("train", plan, base, ctx, cache) is None
        (dataset.path / "train" / "metadata.jsonl").write_text("{")
        with pytest.raises(ArtifactError, match="label it again"):
            load_split("train", plan, base, ctx, cache)
