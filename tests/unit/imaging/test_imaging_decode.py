"""Hostile bytes: each gives the right pixels or the right reason, never another exception."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from lora_factory.imaging.decode import ImageRejected, decode, sniff

ORIENTATION = 0x0112
HTML = b"<!DOCTYPE html><html><body>404</body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def frames(kind: str) -> bytes:
    first, second = picture(), Image.new("RGB", (24, 16), "lime")
    return encoded(first, kind, save_all=True, append_images=[second], duration=40)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces width × height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\x00" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def near(image: Image.Image, xy: tuple[int, int], rgb: tuple[int, int, int], by: int = 6) -> bool:
    pixel = image.getpixel(xy)
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= by for a, b in zip(pixel, rgb, strict=True))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"\x00" * 4096, "not_an_image"),
        (HTML, "not_an_image"),
        (SVG, "not_an_image"),
        (b"%PDF-1.7\n1 0 obj", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "corrupt"),
        (b"\xff\xd8\xff", "corrupt"),
        (b"BM is a car maker's initials, nearly", "corrupt"),
        (b"RIFF\xff\xff\xff\xffWEBP", "corrupt"),
        (b"GIF89a=1;alert(document.cookie)//", "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + HTML, "corrupt"),
        (encoded(picture())[:-30], "corrupt"),
        (encoded(picture(size=(200, 200)), "JPEG")[:400], "corrupt"),
        (bomb(30_000, 30_000), "too_many_pixels"),
        (bomb(8_000, 8_000), "too_many_pixels"),
        (bomb(2**31 - 1, 2**31 - 1), "too_many_pixels"),
        (bomb(100, 100), "corrupt"),
        (frames("GIF"), "animated"),
        (frames("WEBP"), "animated"),
        (frames("PNG"), "animated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_bytes_are_rejected_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_formats_beyond_the_list_are_not_even_tried() -> None:
    for kind in ("TIFF", "ICO", "PPM", "TGA", "PDF", "EPS"):
        with pytest.raises(ImageRejected) as caught:
            decode(encoded(picture(), kind))
        assert caught.value.reason == "not_an_image", kind


def test_readers_of_other_formats_are_never_asked() -> None:
    """Not even where the first bytes look right: a reader that takes everything stays unused."""
    asked = []

    def trap(file: io.BytesIO, name: str) -> Image.Image:
        asked.append(name)
        return picture()

    Image.register_open("TRAP", trap)  # type: ignore[arg-type]
    try:
        for data in (b"BM" + HTML, b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
            with pytest.raises(ImageRejected):
                decode(data)
    finally:
        Image.ID.remove("TRAP")
        del Image.OPEN["TRAP"]
    assert asked == []


def test_a_polyglot_is_decoded_to_pixels_only() -> None:
    """A GIF with a script behind it: valid for Pillow; nothing of the script is left."""
    data = encoded(picture(), "GIF") + b"/*<script>alert(1)</script>*/"
    image = decode(data)
    assert near(image, (2, 8), (255, 0, 0))
    assert image.info == {}
    assert b"script" not in encoded(image)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp")],
)
def test_sniff_and_decode_of_each_format(kind: str, name: str) -> None:
    data = encoded(picture(), kind)
    assert sniff(data) == name
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (24, 16))
    assert near(image, (3, 8), (255, 0, 0), 40)
    assert near(image, (20, 8), (0, 0, 255), 40)


@pytest.mark.parametrize("data", [b"", b"\x89PN", HTML, SVG, b"RIFF....WAVE", b" \xff\xd8\xff"])
def test_sniff_knows_nothing_else(data: bytes) -> None:
    assert sniff(data) is None


def test_one_pixel() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7)))).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB"])
def test_png_modes(mode: str) -> None:
    white = Image.new(mode, (5, 4), 1 if mode == "1" else "white")
    assert decode(encoded(white)).getpixel((2, 2)) == (255, 255, 255)


def test_cmyk_jpeg() -> None:
    image = decode(encoded(picture("CMYK"), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert near(image, (2, 8), (255, 0, 0), 12)


def test_transparency_is_laid_on_white() -> None:
    palette = picture("P")
    assert palette.getpalette() is not None
    gone = palette.getpixel((0, 0))
    for data in (
        encoded(palette, transparency=gone),
        encoded(palette, "GIF", transparency=gone),
        encoded(picture(), transparency=(255, 0, 0)),
    ):
        image = decode(data)
        assert image.getpixel((2, 8)) == (255, 255, 255)
        assert near(image, (20, 8), (0, 0, 255))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert near(decode(encoded(half)), (1, 1), (127, 127, 127), 1)


def test_sixteen_bits_keep_their_levels() -> None:
    # The lower byte runs against the upper one, so that only the upper gives the right grey.
    levels = (np.arange(256, dtype=np.uint16) * 256 + 255 - np.arange(256)).astype(np.uint16)
    levels = levels.reshape(16, 16)
    deep = Image.fromarray(levels)
    assert deep.mode == "I;16"
    grey = np.asarray(decode(encoded(deep)))[..., 0]
    assert (grey == np.arange(256).reshape(16, 16)).all()
    # With a transparent level (tRNS) too: only that level is white.
    keyed = np.asarray(decode(encoded(deep, transparency=int(levels.flat[100]))))[..., 0].ravel()
    assert keyed[100] == 255
    assert (np.delete(keyed, 100) == np.delete(np.arange(256), 100)).all()


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [(1, (24, 16), (2, 8)), (3, (24, 16), (22, 8)), (6, (16, 24), (8, 2)), (8, (16, 24), (8, 22))],
)
def test_exif_rotation_is_applied_and_removed(
    orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = decode(encoded(picture(), "JPEG", exif=exif, quality=95))
    assert image.size == size
    assert near(image, red, (255, 0, 0), 40)
    assert not image.getexif()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01\x12\x00\x03" * 9,
        b"Exif\x00\x00",
    ],
)
def test_broken_exif_costs_only_the_rotation(exif: bytes) -> None:
    assert decode(encoded(picture(), "JPEG", exif=exif)).size == (24, 16)


def test_icc_profile_is_converted_to_srgb() -> None:
    # A profile of another class (XYZ) than the pixels.
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    assert decode(encoded(picture(), icc_profile=other.tobytes())).mode == "RGB"
    # sRGB itself changes nothing; a damaged profile neither.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, srgb[:100], b"not a profile"):
        image = decode(encoded(picture(), icc_profile=profile))
        assert near(image, (2, 8), (255, 0, 0), 2)
        assert "icc_profile" not in image.info


def test_icc_profile_changes_the_colours() -> None:
    """A profile that swaps red's and blue's primaries: red pixels mean blue."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    first, last = srgb.index(b"rXYZ"), srgb.index(b"bXYZ")
    srgb[first : first + 4], srgb[last : last + 4] = b"bXYZ", b"rXYZ"
    image = decode(encoded(picture(), icc_profile=bytes(srgb)))
    assert near(image, (2, 8), (0, 0, 255), 12)


def test_a_lower_limit_of_pixels_can_be_asked() -> None:
    data = encoded(picture())
    assert decode(data, max_pixels=24 * 16).size == (24, 16)
    with pytest.raises(ImageRejected, match="too_many_pixels: 24×16 > 383"):
        decode(data, max_pixels=383)


def accepts_or_rejects(data: bytes) -> None:
    """Anything but a picture or ImageRejected fails the test."""
    with contextlib.suppress(ImageRejected):
        assert decode(data, max_pixels=1_000_000).mode == "RGB"


MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x20\0\0\0WEBPVP8 ", b"GIF89a", b"BM"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_arbitrary_bytes(magic: bytes, data: bytes) -> None:
    accepts_or_rejects(magic + data)


WHOLE = [
    encoded(picture()),
    encoded(picture("P"), transparency=0),
    encoded(Image.fromarray(np.full((9, 9), 700, dtype=np.uint16)), transparency=700),
    encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"),
    encoded(picture("CMYK"), "JPEG"),
    encoded(picture(), "GIF"),
    encoded(picture(), "WEBP"),
    encoded(picture(), "BMP"),
    frames("GIF"),
    frames("PNG"),
]
DAMAGE: list[Callable[[bytes, int, bytes], bytes]] = [
    lambda data, at, new: data[:at] + new + data[at + len(new) :],
    lambda data, at, new: data[:at] + new + data[at:],
    lambda data, at, new: data[:at] + data[at + len(new) :],
    lambda data, at, _: data[:at],
]


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(WHOLE),
    st.lists(
        st.tuples(st.sampled_from(DAMAGE), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_pictures(
    data: bytes, damages: list[tuple[Callable[[bytes, int, bytes], bytes], float, bytes]]
) -> None:
    for damage, where, new in damages:
        data = damage(data, int(where * len(data)), new)
    accepts_or_rejects(data)
