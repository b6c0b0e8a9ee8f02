"""The index of protected works with the embedded scorer: copies disguised in many ways are
found, originals are left alone, and a damaged index is never used."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lora_factory.__main__ import main
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, DataError, ModelError, SpecError
from lora_factory.guard.copying import perceptual_hashes
from lora_factory.guard.copyright import copyright_check
from lora_factory.guard.indexing import build_index
from lora_factory.guard.protected import (
    SCORER,
    ProtectedFilter,
    ProtectedIndex,
    open_index,
    protected_conditions,
)
from lora_factory.models.loaders import ClipScorer, image_text_scorer
from lora_factory.models.profiles import PACKAGE, load_profile

ICONS = sorted((PACKAGE / "demo" / "gallery" / "icons").glob("*.png"))
Change = Callable[[Image.Image], Image.Image]


def coloured(file: Path, seed: int) -> Image.Image:
    """A black line icon in a colour on a pale ground, both of its own."""
    dice = np.random.default_rng(seed)
    with Image.open(file) as icon:
        ink = icon.convert("RGBA").getchannel("A")
        if ink.getextrema() == (255, 255):
            ink = ImageOps.invert(icon.convert("L"))
    dark, pale = dice.integers(0, 140, 3), dice.integers(190, 256, 3)
    image = Image.new("RGB", ink.size, tuple(int(v) for v in pale))
    image.paste(tuple(int(v) for v in dark), mask=ink)
    return image


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        return Image.open(out).convert("RGB")

    return change


def resized(factor: float) -> Change:
    return lambda i: i.resize((int(i.width * factor),) * 2, Image.Resampling.LANCZOS)


def cropped(share: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        rim = round(image.width * share / 2)
        return ImageOps.crop(image, rim).resize(image.size, Image.Resampling.LANCZOS)

    return change


def turned(image: Image.Image) -> Image.Image:
    hue = np.array(image.convert("HSV"))
    hue[..., 0] += 20
    return Image.fromarray(hue, "HSV").convert("RGB")


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3))
    pixels = np.asarray(image, dtype=float) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# Each with the share of copies it must find; what is found is printed.
CHANGES: dict[str, tuple[Change, float]] = {
    "none": (lambda i: i, 1.0),
    "mirrored": (ImageOps.mirror, 1.0),
    "half size": (resized(0.5), 0.9),
    "double size": (resized(2), 0.9),
    "JPEG 75": (jpeg(75), 0.9),
    "JPEG 40": (jpeg(40), 0.9),
    "5% crop": (cropped(0.05), 0.9),
    "10% crop": (cropped(0.1), 0.9),
    "10% off the bottom": (lambda i: i.crop((0, 0, i.width, round(i.height * 0.9))), 0.9),
    "10% off a corner": (lambda i: i.crop((6, 6, i.width, i.height)), 0.9),
    "20% crop": (cropped(0.2), 0.0),
    "darker": (lambda i: ImageEnhance.Brightness(i).enhance(0.8), 0.9),
    "half colour": (lambda i: ImageEnhance.Color(i).enhance(0.5), 0.9),
    "grey": (lambda i: i.convert("L").convert("RGB"), 0.9),
    "hue + 28°": (turned, 0.9),
    "noise": (noisy, 0.9),
    "mirror, JPEG 60, 5% crop": (
        lambda i: cropped(0.05)(jpeg(60)(ImageOps.mirror(i))),
        0.9,
    ),
}


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return image_text_scorer(load_profile("embedded", Settings()))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def revision() -> str:
    return load_profile("embedded", Settings()).role(SCORER).resolve_revision()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """152 coloured icons in an order of no meaning."""
    order = np.random.default_rng(3).permutation(len(ICONS))
    return [coloured(ICONS[at], int(at)) for at in order]


@pytest.fixture(scope="module")
def folders(pictures: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``works`` (40, and files that are no works) and ``originals`` (56)."""
    root = tmp_path_factory.mktemp("protected")
    for name, part in (("works", pictures[:40]), ("originals", pictures[40:96])):
        (root / name / "deep").mkdir(parents=True)
        for number, image in enumerate(part):
            image.save(root / name / ("deep" if number % 2 else ".") / f"{number:03d}.png")
    works = root / "works"
    (works / "LICENSE.txt").write_text("mine")
    (works / "half\n.png").write_bytes((works / "000.png").read_bytes()[:300])
    shutil.copy(works / "000.png", works / "again.png")
    Image.new("RGB", (64, 64), "white").save(works / "blank.png")
    return root


@pytest.fixture(scope="module")
def index(folders: Path, scorer: ClipScorer, revision: str) -> ProtectedIndex:
    return build_index(folders / "works", folders / "originals", scorer, revision)


def told(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n  {line}")


@pytest.mark.parametrize("name", CHANGES)
def test_a_disguised_copy_is_found(
    index: ProtectedIndex,
    scorer: ClipScorer,
    pictures: list[Image.Image],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, least = CHANGES[name]
    found = index.look([change(image) for image in pictures[:30]], scorer)
    hits = [match for match in found if match.copied]
    right = sum(one.copied and f"{at:03d}.png" in one.work for at, one in enumerate(found))
    told(
        capsys,
        f"copies found, {name}: {len(hits)}/30, the right work {right}, plain 0.9 "
        f"{sum(match.plain for match in found)}/30",
    )
    assert right >= least * 30


def test_originals_are_left_alone(
    index: ProtectedIndex,
    scorer: ClipScorer,
    pictures: list[Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None of these 56 was calibrated on."""
    found = index.look(pictures[96:], scorer)
    copied, plain = (sum(getattr(m, rule) for m in found) for rule in ("copied", "plain"))
    told(
        capsys, f"originals taken for copies: {copied}/{len(found)}, plain 0.9 {plain}/{len(found)}"
    )
    assert copied <= 2
    assert not any(match.verbatim for match in found)
    assert plain > copied


def test_bad_files_are_named_and_not_fatal(index: ProtectedIndex) -> None:
    assert len(index) == 40
    assert {(one.name, one.reason) for one in index.info.skipped} == {
        ("LICENSE.txt", "not_an_image"),
        ("half\n.png", "corrupt"),
        ("again.png", "exact_duplicate"),
        ("blank.png", "uniform"),
    }
    assert index.info.calibrated_on == 40 + 56


def test_a_work_under_two_names_does_not_blunt_the_cuts(
    folders: Path, scorer: ClipScorer, revision: str, index: ProtectedIndex, tmp_path: Path
) -> None:
    shutil.copytree(folders / "works", tmp_path / "works")
    for number in range(0, 20, 2):
        jpeg(90)(Image.open(folders / "works" / f"{number:03d}.png")).save(
            tmp_path / "works" / f"twin{number}.png"
        )
    twins = build_index(tmp_path / "works", folders / "originals", scorer, revision)
    assert twins.info.twins >= 18
    assert twins.cuts.bits >= index.cuts.bits - 2
    assert twins.cuts.cosine <= index.cuts.cosine + 0.005


def test_written_and_read_it_says_the_same(
    index: ProtectedIndex, scorer: ClipScorer, pictures: list[Image.Image], tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    again = ProtectedIndex.load(tmp_path / "index")
    assert again.look(pictures[:3], scorer) == index.look(pictures[:3], scorer)
    index.save(tmp_path / "index")  # the same again replaces it
    assert len(list((tmp_path / "index").iterdir())) == 2
    assert index.look([], scorer) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "info", "empty"])
def test_a_damaged_index_is_refused(index: ProtectedIndex, tmp_path: Path, damage: str) -> None:
    index.save(tmp_path)
    data = tmp_path / index.info.data
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-100])
    elif damage == "changed":
        data.write_bytes(data.read_bytes()[:-1] + b"\1")
    elif damage == "gone":
        data.unlink()
    else:
        (tmp_path / "works.json").write_text("{}" if damage == "info" else "")
    with pytest.raises(ConfigurationError, match="lora_factory protect"):
        ProtectedIndex.load(tmp_path)


def test_another_scorers_index_is_refused(index: ProtectedIndex, tmp_path: Path) -> None:
    ProtectedIndex(
        index.info.model_copy(update={"scorer": "sha256:0"}), index._vectors, index._hashes
    ).save(tmp_path)
    profile = load_profile("embedded", Settings())
    with pytest.raises(ConfigurationError, match="made with scorer sha256:0"):
        open_index(profile, Settings(protected=tmp_path))
    assert open_index(profile, Settings()) is None
    with pytest.raises(ConfigurationError, match="can't be used"):
        open_index(profile, Settings(protected=tmp_path / "none"))


def test_the_index_and_the_policy_enter_the_artifact_key(
    index: ProtectedIndex, tmp_path: Path
) -> None:
    index.save(tmp_path)
    block = protected_conditions(Settings(protected=tmp_path))
    flag = protected_conditions(Settings(protected=tmp_path, protected_policy="flag"))
    assert block != flag
    assert protected_conditions(Settings()) == {}


def test_an_unknown_policy_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="LORA_FACTORY_PROTECTED_POLICY"):
        Settings.from_environment({"LORA_FACTORY_PROTECTED_POLICY": "ignore"})


def test_other_files_are_not_overwritten(index: ProtectedIndex, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(SpecError, match="holds other files"):
        index.save(tmp_path)


def test_too_few_originals_ask_for_more(
    folders: Path, scorer: ClipScorer, revision: str, tmp_path: Path
) -> None:
    shutil.copy(folders / "works" / "000.png", tmp_path / "logo.png")
    with pytest.raises(DataError, match="--originals"):
        build_index(tmp_path, None, scorer, revision)
    one = build_index(tmp_path, folders / "originals", scorer, revision)
    assert one.info.calibrated_on == 56
    assert one.cuts.chance == pytest.approx(2 / 57)


def test_a_folder_without_images_says_what_it_holds(
    scorer: ClipScorer, revision: str, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(DataError, match=r"no usable image \(x\.png not_an_image\)"):
        build_index(tmp_path, None, scorer, revision)


def test_embeddings_that_are_no_numbers_are_no_pass(
    index: ProtectedIndex, scorer: ClipScorer, pictures: list[Image.Image]
) -> None:
    vectors = scorer.embed_images(pictures[:2])
    hashes = perceptual_hashes(pictures[:2])
    for bad in (np.full_like(vectors, np.nan), vectors[:, :5]):
        with pytest.raises(ModelError, match="protected works"):
            index.nearest(bad, hashes)


def test_the_output_guard_stops_or_flags(
    index: ProtectedIndex,
    scorer: ClipScorer,
    pictures: list[Image.Image],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = [pictures[100], pictures[0]]
    fine, stopped = ProtectedFilter(index, scorer, "block").check(shown)
    assert fine.allowed
    assert not fine.rule
    assert (stopped.allowed, stopped.rule) == (False, "protected_work")
    assert "000.png" in stopped.detail
    assert all(one.allowed for one in ProtectedFilter(index, scorer, "flag").check(shown))
    assert "repeats" in caplog.text


def test_a_lora_that_draws_protected_works_does_not_pass(
    index: ProtectedIndex, scorer: ClipScorer, pictures: list[Image.Image]
) -> None:
    names = [work.name for work in index.info.works]
    drawn = [*pictures[96:119], jpeg(80)(pictures[7])]
    files = [f"images/lora/{number:04d}.png" for number in range(len(drawn))]
    found = index.look(drawn, scorer)
    check = copyright_check(found, files, names, index.cuts, against="protected")
    assert not check.passed
    assert check.verbatim_hits == 1
    assert check.worst[0].file_name == "images/lora/0023.png"
    assert check.worst[0].work.endswith("007.png")
    honest = copyright_check(found[:-1], files[:-1], names, index.cuts, against="protected")
    assert honest.passed
    flagged = copyright_check(found, files, names, index.cuts, against="protected", policy="flag")
    assert flagged.passed


def test_the_command_makes_an_index_and_says_what_is_in_it(
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORA_FACTORY_THREADS", "1")
    out, made = tmp_path / "index", folders / "originals"
    arguments = ["protect", str(folders / "works"), "--originals", str(made), "--out", str(out)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "40 protected works" in said
    assert "corrupt: 'half\\n.png'" in said
    assert "calibrated on 96 originals" in said
    assert main(["protect", str(tmp_path / "none"), "--out", str(out)]) == 1
