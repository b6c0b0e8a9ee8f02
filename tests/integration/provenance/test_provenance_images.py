"""``verify`` on images: what it says of a marked picture, and of every way to spoil one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image

from lora_factory.__main__ import main
from lora_factory.guard.provenance.c2pa import Facts
from lora_factory.guard.provenance.keys import make_keys
from lora_factory.guard.provenance.marks import ImageMarker

FACTS = Facts(base="emoji", base_revision="sha256:1", adapter="icons", lora_sha256="ab" * 32)
Verify = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, a marked photograph (512 pixels) and a marked icon (64)."""
    folder = tmp_path_factory.mktemp("studio")
    marker = ImageMarker(make_keys(folder / "keys"), b"mark key")
    photo = Image.fromarray(load_sample_image("flower.jpg"))
    for side in (512, 64):
        marked = marker.mark_image(photo.resize((side, side)), FACTS)
        (folder / f"{side}.png").write_bytes(marked)
    return folder


@pytest.fixture
def verify(
    studio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Verify:
    def call(*argv: str | Path, key: str = "mark key") -> tuple[int, str]:
        monkeypatch.setenv("LORA_FACTORY_WATERMARK_KEY", key)
        status = main(["verify", *map(str, argv)])
        return status, capsys.readouterr().out

    return call


def trust(studio: Path) -> tuple[str, Path]:
    return "--trust", studio / "keys" / "trust.pem"


def test_a_marked_picture(studio: Path, verify: Verify) -> None:
    status, told = verify(studio / "512.png", *trust(studio))
    assert status == 0, told
    assert "signer: trusted" in told
    assert "made by a trained model" in told
    assert "adapter icons" in told
    assert "ok     watermark: id ababab" in told


def test_without_an_anchor_the_signer_is_unknown_and_it_says_so(
    studio: Path, verify: Verify
) -> None:
    status, told = verify(studio / "512.png")
    assert status == 0, told
    assert "untrusted: no trust anchor given" in told


def test_another_anchor_does_not_do(studio: Path, tmp_path: Path, verify: Verify) -> None:
    make_keys(tmp_path)
    status, told = verify(studio / "512.png", "--trust", tmp_path / "trust.pem")
    assert status == 1
    assert "FAILED signer" in told
    assert verify(studio / "512.png", "--trust", tmp_path / "signing.pub")[0] == 1


def test_a_small_picture_has_no_watermark_and_it_says_so(studio: Path, verify: Verify) -> None:
    status, told = verify(studio / "64.png", *trust(studio))
    assert status == 0
    assert "below 256 pixels carry none" in told


def test_a_changed_byte(studio: Path, tmp_path: Path, verify: Verify) -> None:
    data = bytearray((studio / "512.png").read_bytes())
    data[-5000] ^= 1
    (tmp_path / "bad.png").write_bytes(bytes(data))
    status, told = verify(tmp_path / "bad.png", *trust(studio))
    assert status == 1
    assert "FAILED C2PA manifest" in told


def test_a_text_chunk_slipped_in(studio: Path, tmp_path: Path, verify: Verify) -> None:
    data = (studio / "64.png").read_bytes()
    info, out = PngInfo(), io.BytesIO()
    info.add_text("Author", "a person")
    Image.new("RGB", (1, 1)).save(out, format="PNG", pnginfo=info)
    chunk = out.getvalue()[33 : out.getvalue().index(b"IDAT") - 4]
    (tmp_path / "more.png").write_bytes(data[:33] + chunk + data[33:])
    assert verify(tmp_path / "more.png", *trust(studio))[0] == 1


def test_a_stripped_manifest_leaves_the_watermark(
    studio: Path, tmp_path: Path, verify: Verify
) -> None:
    file = tmp_path / "shared.jpg"
    Image.open(studio / "512.png").save(file, quality=75)
    status, told = verify(file, *trust(studio))
    assert status == 1
    assert "never marked, or stripped" in told
    assert "ok     watermark: id ababab" in told


def test_another_watermark_key_finds_nothing_and_spoils_nothing(
    studio: Path, verify: Verify
) -> None:
    status, told = verify(studio / "512.png", *trust(studio), key="another")
    assert status == 0
    assert "is the key the right one?" in told


def test_what_is_no_picture(tmp_path: Path, verify: Verify) -> None:
    for data in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        (tmp_path / "file").write_bytes(data)
        status, told = verify(tmp_path / "file")
        assert status == 1
        assert "Traceback" not in told
