"""The decoder in a process of its own: what it answers, and what it survives."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lora_factory.imaging import sandbox
from lora_factory.imaging.borders import crop_bars
from lora_factory.imaging.decode import ImageRejected, decode
from lora_factory.imaging.hashes import perceptual_hash
from lora_factory.imaging.quality import MEASURED_SIDE, reduced
from lora_factory.imaging.sandbox import DecodingProcess, Measured, serve


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def size(found: Measured) -> tuple[int, int]:
    return found.width, found.height


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecodingProcess]:
    process = DecodingProcess()
    yield process
    process.close()


def test_measures_pictures_and_names_what_is_none(decoder: DecodingProcess) -> None:
    assert size(decoder.measure(png(30, 20))) == (30, 20)
    for data, reason in ((b"<html>", "not_an_image"), (png(9, 9)[:40], "corrupt")):
        with pytest.raises(ImageRejected) as refused:
            decoder.measure(data)
        assert refused.value.reason == reason
    assert size(decoder.measure(png(8, 9))) == (8, 9)


def test_the_hash_is_the_one_sanitize_takes(decoder: DecodingProcess) -> None:
    """Off one decoding: without letterbox bars, on white where it is transparent."""
    photo = Image.effect_noise((400, 300), 60).convert("RGB")
    framed = Image.new("RGB", (400, 380), "black")
    framed.paste(photo, (0, 40))
    glass = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    glass.paste((200, 30, 30, 255), (60, 40, 240, 160))
    for image in (photo, framed, glass):
        out = io.BytesIO()
        image.save(out, "PNG")
        small = reduced(crop_bars(decode(out.getvalue(), ground="#ffffff")), MEASURED_SIDE)
        assert decoder.measure(out.getvalue()).hash == perceptual_hash(small)
    assert hash_of(decoder, photo) == hash_of(decoder, framed)


def hash_of(decoder: DecodingProcess, image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return decoder.measure(out.getvalue()).hash


def test_a_child_that_dies_costs_one_picture(decoder: DecodingProcess) -> None:
    assert size(decoder.measure(png(5, 5))) == (5, 5)
    assert decoder._child is not None
    os.kill(decoder._child.pid, signal.SIGKILL)
    with pytest.raises(ImageRejected, match="decoder"):
        decoder.measure(png(5, 5))
    assert size(decoder.measure(png(6, 5))) == (6, 5)


def test_a_child_that_hangs_is_ended() -> None:
    slow = DecodingProcess(seconds=0.001)
    with pytest.raises(ImageRejected, match="no answer"):
        slow.measure(png(5, 5))
    assert slow._child is None


def test_memory_is_bounded() -> None:
    tight = DecodingProcess(memory=8 << 20)
    try:
        with pytest.raises(ImageRejected) as refused:
            tight.measure(png(4000, 4000))
        assert refused.value.reason in {"too_many_pixels", "corrupt"}
        assert "memory" in str(refused.value).lower() or "decoder" in str(refused.value)
        assert size(tight.measure(png(4, 4))) == (4, 4)
    finally:
        tight.close()


def test_the_child_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_FACTORY_SERVE_TOKEN", "secret")
    process = DecodingProcess()
    try:
        process.measure(png(4, 4))
        assert process._child is not None
        environ = Path(f"/proc/{process._child.pid}/environ").read_bytes()
        assert b"secret" not in environ
    finally:
        process.close()


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{}\n", b"nonsense\n", b"x" * 5000])
def test_an_answer_that_is_none_is_refused(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    process = DecodingProcess()
    real = process._start

    def start() -> object:
        child = real()
        assert child.stdout is not None
        child.stdout = io.BytesIO(line)  # type: ignore[assignment]
        return child

    monkeypatch.setattr(process, "_start", start)
    monkeypatch.setattr(sandbox.select, "select", lambda *_: ([1], [], []))
    with pytest.raises(ImageRejected, match="decoder"):
        process.measure(png(4, 4))


def test_one_answer_a_picture_until_the_end() -> None:
    out = io.BytesIO()
    parts = (png(3, 2), b"", b"GIF89a")
    sent = b"".join(sandbox.LENGTH.pack(len(part)) + part for part in parts)
    serve(io.BytesIO(sent + b"\x00\x00"), out)
    first, second, third = out.getvalue().splitlines()
    assert first.startswith(b'{"width":3,"height":2,"hash":"')
    assert b"not_an_image" in second
    assert b"corrupt" in third
