"""Manifests in images: what they say, whom they convince, and what breaks them."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lora_factory.contracts.settings import Settings
from lora_factory.guard.provenance.c2pa import SOURCE_TYPE, Facts, read_credentials
from lora_factory.guard.provenance.keys import SigningKey, make_keys
from lora_factory.guard.provenance.marks import (
    ImageMarker,
    image_marker,
    marks_of,
    watermark_id,
    watermark_key,
)
from lora_factory.guard.provenance.watermark import Watermark

FACTS = Facts(
    base="emoji", base_revision="sha256:1", adapter="icons", version="ab", lora_sha256="c0ffee" * 10
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def anchors(key: SigningKey) -> str:
    return (key.path.parent / "trust.pem").read_text()


def picture(side: int = 64) -> Image.Image:
    return Image.linear_gradient("L").resize((side, side)).convert("RGB")


def png_of(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def test_says_that_a_model_made_it_and_which(key: SigningKey, anchors: str) -> None:
    data = ImageMarker(key).mark_image(picture(), FACTS)
    found = read_credentials(data, anchors)
    assert found is not None
    assert (found.state, found.failures, found.generated) == ("Trusted", (), True)
    assert found.generation == FACTS.model_dump()
    assert SOURCE_TYPE.encode() in data  # as any other reader finds it
    assert Image.open(io.BytesIO(data)).convert("RGB").tobytes() == picture().tobytes()


def test_without_the_anchor_it_is_valid_and_its_signer_unknown(
    key: SigningKey, tmp_path: Path
) -> None:
    data = ImageMarker(key).mark_image(picture(), FACTS)
    make_keys(tmp_path)
    for anchors in (None, (tmp_path / "trust.pem").read_text()):
        found = read_credentials(data, anchors)
        assert found is not None
        assert found.state == "Valid"
        assert found.failures == ("signingCredential.untrusted",)


def test_a_large_picture_is_watermarked_and_says_so(key: SigningKey) -> None:
    data = ImageMarker(key, b"secret").mark_image(picture(256), FACTS)
    found = read_credentials(data)
    assert found is not None
    assert found.generation["watermark"] == "c0ffee"
    assert Watermark(b"secret").detect(Image.open(io.BytesIO(data))).ident == "c0ffee"
    assert marks_of((256, 300)) == ("c2pa", "watermark")
    assert marks_of((255, 300)) == ("c2pa",)


def test_the_base_alone_has_an_id_of_its_own() -> None:
    base = Facts(base="emoji", base_revision="sha256:1")
    assert watermark_id(base) != watermark_id(FACTS)
    assert len(bytes.fromhex(watermark_id(base))) == 3


def test_every_changed_byte_of_the_pixels_shows(key: SigningKey) -> None:
    data = bytearray(ImageMarker(key).mark_image(picture(), FACTS))
    data[data.rindex(b"IDAT") + 20] ^= 1
    found = read_credentials(bytes(data))
    assert found is not None
    assert found.state == "Invalid"
    assert "assertion.dataHash.mismatch" in found.failures


def test_a_changed_claim_shows(key: SigningKey) -> None:
    data = ImageMarker(key).mark_image(picture(), FACTS)
    assert data.count(b"icons") == 1
    found = read_credentials(data.replace(b"icons", b"other"))
    assert found is not None
    assert found.state == "Invalid"


def test_a_manifest_moved_to_another_picture_shows(key: SigningKey) -> None:
    data, other = ImageMarker(key).mark_image(picture(), FACTS), png_of(picture().rotate(90))
    start = data.index(b"caBX") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    head = 8 + 25  # signature and IHDR
    moved = other[:head] + data[start : start + length] + other[head:]
    found = read_credentials(moved)
    assert found is not None
    assert found.state == "Invalid"


def test_no_manifest_is_none_and_rubbish_is_no_error(key: SigningKey) -> None:
    data = ImageMarker(key).mark_image(picture(), FACTS)
    assert read_credentials(png_of(Image.open(io.BytesIO(data)))) is None
    for rubbish in (b"", b"no picture at all", data[:900], b"\x89PNG\r\n\x1a\n" + b"\0" * 99):
        found = read_credentials(rubbish)
        assert found is None or found.state == "Invalid"


def test_many_threads_at_once(key: SigningKey, anchors: str) -> None:
    marker = ImageMarker(key)
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda _: marker.mark_image(picture(), FACTS), range(32)))
    states = {found.state for data in signed if (found := read_credentials(data, anchors))}
    assert states == {"Trusted"}


def test_an_app_without_a_key_makes_one_and_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = image_marker(Settings(), tmp_path / "own")
    assert "LORA_FACTORY_SIGNING_KEY is not set" in caplog.text
    assert first.key_note.startswith("self-made, sha256 ")
    assert image_marker(Settings(), tmp_path / "own").key_note == first.key_note
    key = make_keys(tmp_path / "given")
    configured = image_marker(Settings(signing_key=key.path), tmp_path / "own")
    assert configured.key_note == f"configured, sha256 {key.fingerprint[:16]}"


def test_the_watermark_key_is_a_secret_of_the_deployment() -> None:
    settings = Settings.from_environment({"LORA_FACTORY_WATERMARK_KEY": "s3cret"})
    assert watermark_key(settings) == b"s3cret"
    assert "s3cret" not in repr(settings)
