"""Pictures are looked at in other processes, as many at a time as there are."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from PIL import Image

from lora_factory.crawl.images import CheckedImage, Dropped, ImageChecker
from lora_factory.imaging.decode import decode
from lora_factory.imaging.hashes import picture_hash, sha256_hex


def png(side: int, shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").rotate(shade).resize((side, side)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def checker() -> Iterator[ImageChecker]:
    with closing(ImageChecker(2)) as made:
        yield made


def test_both_names_of_a_picture_are_taken_at_once(checker: ImageChecker) -> None:
    data = png(300)
    assert checker.check(data) == CheckedImage(
        data, sha256_hex(data), f"images/{sha256_hex(data)}.png", 300, 300,
        picture_hash(decode(data)),
    )  # fmt: skip


def test_threads_share_the_processes(checker: ImageChecker) -> None:
    pictures = [png(40 + n, n) for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(checker.check, pictures))
    assert [one.width for one in found] == [40 + n for n in range(24)]
    assert [one.sha256 for one in found] == [sha256_hex(data) for data in pictures]


def test_a_process_that_dies_is_there_again(checker: ImageChecker) -> None:
    checker.check(png(40))
    dead = 0
    for decoder in checker._decoders:
        if decoder._child is not None:
            os.kill(decoder._child.pid, signal.SIGKILL)
            dead += 1
    assert dead
    refused = []
    for _ in range(4):
        try:
            checker.check(png(40))
        except Dropped as verdict:
            refused.append(verdict.reason)
    assert set(refused) <= {"corrupt"}
    assert len(refused) <= dead
    assert checker.check(png(41)).width == 41


@pytest.mark.parametrize(
    ("data", "reason"), [(b"<svg/>", "not_an_image"), (png(8), "too_small")]
)  # fmt: skip
def test_what_is_no_picture_is_dropped(checker: ImageChecker, data: bytes, reason: str) -> None:
    with pytest.raises(Dropped) as verdict:
        checker.check(data)
    assert verdict.value.reason == reason
