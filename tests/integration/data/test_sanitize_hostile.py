"""Every kind of bad input in one run: none stops it, each is in the audit with its reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image
from sanitize_rig import (  # type: ignore[import-not-found]
    HTML,
    ICONS,
    Cleaned,
    Raw,
    add_icons,
    commit,
    encoded,
)

from lora_factory.contracts.records import write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.runner import run_stage


def icon(number: int) -> Image.Image:
    with Image.open(ICONS[number]) as opened:
        return opened.convert("RGB")


def bomb(side: int) -> bytes:
    """A PNG that says it is ``side`` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def sixteen_bits() -> bytes:
    grey = icon(30).convert("L")
    return encoded(
        Image.frombytes("I;16", grey.size, b"".join(bytes((0, v)) for v in grey.tobytes()))
    )


def bars() -> bytes:
    """A noisy picture between black bars, as films have."""
    wide = Image.new("RGB", (96, 96))
    wide.paste(Image.effect_noise((96, 60), 40).convert("RGB"), (0, 18))
    return encoded(wide)


BAD: dict[str, tuple[Callable[[], bytes | None], str]] = {
    "truncated": (lambda: ICONS[20].read_bytes()[:-60], "corrupt"),
    "zero bytes": (lambda: b"", "not_an_image"),
    "one pixel": (lambda: encoded(Image.new("RGB", (1, 1))), "too_small"),
    "30k by 30k": (lambda: bomb(30_000), "too_many_pixels"),
    "HTML as JPEG": (lambda: HTML, "not_an_image"),
    "HTML behind a JPEG's magic": (lambda: b"\xff\xd8\xff\xe0" + HTML, "corrupt"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "not_an_image"),
    "animated": (
        lambda: encoded(icon(21), "GIF", save_all=True, append_images=[icon(22)]),
        "animated",
    ),
    "lost file": (lambda: None, "missing_file"),
    "plain": (lambda: encoded(Image.new("RGB", (64, 64), "navy")), "uniform"),
    "black": (lambda: encoded(icon(23).point(lambda v: v // 12)), "too_dark"),
    "washed out": (lambda: encoded(icon(24).point(lambda v: 235 + v // 13)), "too_light"),
    "stripe": (lambda: encoded(icon(25).resize((640, 64))), "extreme_aspect"),
    "same bytes again": (ICONS[0].read_bytes, "exact_duplicate"),
    "re-encoded": (lambda: encoded(icon(1), "JPEG", quality=60), "near_duplicate"),
}
ODD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "wrong extension": (lambda: encoded(icon(31), "WEBP", lossless=True), "a thing", "a thing"),
    "polyglot": (lambda: encoded(icon(32)) + b"PK\x03\x04<script>1</script>", "a thing", "a thing"),
    "CMYK": (lambda: encoded(icon(33).convert("CMYK"), "JPEG", quality=95), "ink", "ink"),
    "palette": (lambda: encoded(icon(34).convert("P")), "colours", "colours"),
    "one bit": (lambda: encoded(icon(35).convert("1")), "bits", "bits"),
    "grey and alpha": (lambda: encoded(icon(36).convert("LA")), "grey", "grey"),
    "sixteen bits": (sixteen_bits, "deep", "deep"),
    "letterbox": (bars, "a film", "a film"),
    "no caption": (lambda: encoded(icon(37)), "", ""),
    "markup only": (lambda: encoded(icon(38)), "<p></p>&nbsp;", ""),
    "100k characters": (lambda: encoded(icon(39)), "tree " * 20_000, "tree tree"),
    "lone surrogates": (lambda: encoded(icon(40)), "\ud800 a cup \udc00", "a cup"),
    "mixed languages": (
        lambda: encoded(icon(41)),
        "Ein Baum, 一棵树, дерево, شجرة",
        "Ein Baum, 一棵树, дерево, شجرة",
    ),
    "mojibake": (lambda: encoded(icon(42)), "CrÃ¨me brÃ»lÃ©e", "Crème brûlée"),
}


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Cleaned, dict[str, str]]:
    """One run over all of it, ten good pictures among them, and name → sha256."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = Settings(
        store=(folder / "store").as_uri(), scratch=folder / "scratch", min_images=4, threads=1
    )
    raw = Raw(folder / "raw")
    add_icons(raw, ICONS[:10])
    names = {name: raw.add(make(), name) for name, (make, _) in BAD.items()}
    names |= {name: raw.add(make(), text) for name, (make, text, _) in ODD.items()}
    write_jsonl(raw.folder / "records.jsonl", raw.records)
    result = run_stage("sanitize", {"raw": commit(settings, raw.folder, "raw")}, settings)
    return Cleaned(settings, result.manifest_uri), names


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_dropped_by_name(name: str, hostile: tuple[Cleaned, dict[str, str]]) -> None:
    cleaned, names = hostile
    assert BAD[name][1] in cleaned.why(names[name])
    if name != "same bytes again":
        assert names[name] not in cleaned.by_hash


@pytest.mark.parametrize("name", ODD)
def test_odd_input_is_kept(name: str, hostile: tuple[Cleaned, dict[str, str]]) -> None:
    cleaned, names = hostile
    assert cleaned.why(names[name]) == [""]
    record = cleaned.by_hash[names[name]]
    assert record.text.startswith(ODD[name][2])
    with Image.open(cleaned.path / record.file_name) as image:
        assert (image.mode, image.format) == ("RGB", "PNG")


def test_nothing_is_lost_and_changes_can_be_undone(
    hostile: tuple[Cleaned, dict[str, str]],
) -> None:
    cleaned, names = hostile
    assert cleaned.counts.seen == 10 + len(BAD) + len(ODD)
    assert cleaned.counts.kept + sum(cleaned.counts.dropped.values()) == cleaned.counts.seen
    details = {line.item: line.detail for line in cleaned.audit if line.verdict == "kept"}
    assert "CrÃ¨me brÃ»lÃ©e" in details[names["mojibake"]]
    assert repr("tree " * 20_000) in details[names["100k characters"]]
    assert details[names["letterbox"]].startswith("cropped (96, 96) to (96, 60)")
    assert "no role text_detector" in cleaned.report.text_note
