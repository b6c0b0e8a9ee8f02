from __future__ import annotations

import io
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from lora_factory.contracts.records import AuditRecord, RawRecord, read_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.stage import roles, run
from lora_factory.errors import DataError, Interrupted, SpecError

SPEC = CrawlSpec(topics=("icons",), source="folder", folder="mine", as_of=date(2026, 11, 24))


def picture(colour: str, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


@pytest.fixture
def context(tmp_path: Path, mine: Path) -> Callable[[], StageContext]:
    def make() -> StageContext:
        for name in ("out", "scratch"):
            (tmp_path / name).mkdir(exist_ok=True)
        return StageContext(
            {}, tmp_path / "out", tmp_path / "scratch", Settings(folders={"mine": mine})
        )

    return make


def verdicts(out: Path) -> dict[str, str]:
    return {entry.item: entry.reason for entry in read_jsonl(out / "audit.jsonl", AuditRecord)}


def test_images_with_captions_of_the_same_name(
    mine: Path, context: Callable[[], StageContext]
) -> None:
    (mine / "fox.png").write_bytes(picture("red"))
    (mine / "fox.txt").write_bytes("\ufeffa red\nfox ".encode())
    (mine / "deep").mkdir()
    (mine / "deep" / "owl.JPG").write_bytes(picture("blue", kind="JPEG"))
    (mine / ".hidden.png").write_bytes(picture("green"))
    ctx = context()
    report = run(SPEC, ctx)
    owl, fox = read_jsonl(ctx.out / "records.jsonl", RawRecord)
    assert (fox.caption, owl.caption) == ("a red fox", "")
    assert (owl.url, fox.url) == ("folder:mine/deep/owl.JPG", "folder:mine/fox.png")
    assert fox.licence == "own"
    assert (fox.width, fox.height) == (40, 30)
    assert fox.file_name == f"images/{fox.sha256}.png"
    assert owl.file_name.endswith(".jpg")
    assert (ctx.out / fox.file_name).read_bytes() == picture("red")
    assert report.counts.model_dump() == {"seen": 2, "kept": 2, "dropped": {}}
    assert report.licences == {"own": 2}
    assert report.pages_seen == 0


def test_captions_in_json_and_metadata(mine: Path, context: Callable[[], StageContext]) -> None:
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
        (mine / f"{name}.png").write_bytes(picture(colour))
    (mine / "a.txt").write_text("of the text")
    (mine / "a.json").write_text('{"caption": "of the json"}')
    (mine / "b.json").write_text('{"caption": "of the json"}')
    lines = [f'{{"file_name": "{name}.png", "text": "of the list"}}' for name in "abc"]
    (mine / "metadata.jsonl").write_text("\n".join(lines))
    ctx = context()
    assert run(SPEC, ctx).counts.seen == 3
    captions = {r.url[-5]: r.caption for r in read_jsonl(ctx.out / "records.jsonl", RawRecord)}
    assert captions == {"a": "of the text", "b": "of the json", "c": "of the list"}


def test_bad_files_are_named_with_their_reason(
    tmp_path: Path, mine: Path, context: Callable[[], StageContext]
) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture("black"))
    files = {
        "a-good.png": picture("red"),
        "b-copy.png": picture("red"),
        "c-torn.png": picture("blue")[:60],
        "d-notes.md": b"# not a picture",
        "e-empty.png": b"",
        "f-dot.png": picture("red", (4, 4)),
    }
    for name, data in files.items():
        (mine / name).write_bytes(data)
    (mine / "g-link.png").symlink_to(outside)
    (mine / "h-dangling.png").symlink_to(tmp_path / "nowhere")
    (mine / "i-loop.png").symlink_to(mine / "i-loop.png")
    (mine / "j-inside.png").symlink_to(mine / "a-good.png")
    (mine / "a-good.txt").symlink_to(outside)  # a caption that leaves the folder
    ctx = context()
    report = run(SPEC, ctx)
    found = {item.removeprefix("mine/"): reason for item, reason in verdicts(ctx.out).items()}
    assert found.pop("folder:mine/a-good.png") == ""
    assert found == {
        "b-copy.png": "exact_duplicate",
        "c-torn.png": "corrupt",
        "d-notes.md": "not_an_image",
        "e-empty.png": "not_an_image",
        "f-dot.png": "too_small",
        "g-link.png": "outside_root",
        "h-dangling.png": "unreadable",
        "i-loop.png": "unreadable",
        "j-inside.png": "exact_duplicate",
    }
    assert report.counts.kept == 1
    (record,) = read_jsonl(ctx.out / "records.jsonl", RawRecord)
    assert record.caption == ""


def test_linked_folders_are_not_entered(
    tmp_path: Path, mine: Path, context: Callable[[], StageContext]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.png").write_bytes(picture("black"))
    (mine / "sub").symlink_to(tmp_path / "other")
    (mine / "a.png").write_bytes(picture("red"))
    ctx = context()
    assert run(SPEC, ctx).counts.seen == 1


def test_no_more_than_wanted(mine: Path, context: Callable[[], StageContext]) -> None:
    for number, colour in enumerate(["red", "green", "blue"]):
        (mine / f"{number}.png").write_bytes(picture(colour))
    ctx = context()
    report = run(SPEC.model_copy(update={"max_images": 2}), ctx)
    assert report.counts.kept == 2
    assert report.counts.dropped == {"over_budget": 1}


def test_unknown_folder_lists_those_there_are(context: Callable[[], StageContext]) -> None:
    with pytest.raises(SpecError, match=r"unknown folder '\.\./etc'; the deployment offers: mine"):
        run(SPEC.model_copy(update={"folder": "../etc"}), context())


def test_missing_folder(mine: Path, context: Callable[[], StageContext]) -> None:
    mine.rmdir()
    with pytest.raises(DataError, match="folder 'mine' can't be read: No such file"):
        run(SPEC, context())


def test_nothing_usable_is_an_error_with_the_table(
    mine: Path, context: Callable[[], StageContext]
) -> None:
    (mine / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"images 0 of 1 kept \(not_an_image 1\)"):
        run(SPEC, context())


def test_licence_own_must_be_wanted(context: Callable[[], StageContext]) -> None:
    with pytest.raises(SpecError, match='licence "own"'):
        run(SPEC.model_copy(update={"licences": ("MIT",)}), context())


def test_stop(mine: Path, context: Callable[[], StageContext]) -> None:
    (mine / "a.png").write_bytes(picture("red"))
    ctx = context()
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Interrupted):
        run(SPEC, StageContext(ctx.inputs, ctx.out, ctx.scratch, ctx.settings, stopped))


def test_a_folder_needs_no_model() -> None:
    assert roles(SPEC) == ()
    assert "topic_classifier" in roles(SPEC.model_copy(update={"source": "web"}))
