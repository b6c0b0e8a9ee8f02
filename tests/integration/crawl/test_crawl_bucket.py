"""Source bucket on an S3 server over HTTP, and on a folder by its file:// URL."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image

from lora_factory.contracts.records import AuditRecord, RawRecord, read_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl import own
from lora_factory.crawl.stage import roles, run
from lora_factory.errors import ConfigurationError, DataError, ServiceUnavailable, SpecError

pytestmark = pytest.mark.integration
SPEC = CrawlSpec(topics=("icons",), source="bucket", bucket="mine", as_of=date(2026, 11, 24))
BUCKET, PREFIX = "pictures", "team/icons"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A moto server; gives the environment that reaches it."""
    folder = tmp_path_factory.mktemp("moto")
    log = folder / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 60
        while "Running on http" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        url = log.read_text().split("Running on ")[1].split()[0]
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "verysecret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client, with an empty bucket."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    try:
        client.create_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError) as err:
        pytest.fail(str(err))
    yield client
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)


Context = Callable[..., StageContext]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    def make(url: str = f"s3://{BUCKET}/{PREFIX}") -> StageContext:
        for name in ("out", "scratch"):
            (tmp_path / name).mkdir(exist_ok=True)
        settings = Settings(buckets={"mine": url})
        return StageContext({}, tmp_path / "out", tmp_path / "scratch", settings)

    return make


def picture(colour: str, size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def fill(s3: Any, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=data)


MINE = {
    "fox.png": picture("red"),
    "fox.txt": b"a red fox",
    "fox-small.png": picture("orange"),
    "fox-small.json": b'{"caption": "a small fox"}',
    "deep/owl.png": picture("blue"),
    "deep/metadata.jsonl": b'{"file_name": "owl.png", "text": "a blue owl"}\n',
    "deep/bare.png": picture("green"),
    "x-copy.png": picture("red"),
    "x-torn.png": picture("blue")[:60],
    "x-notes.md": b"# no picture",
    "x-empty.png": b"",
    ".hidden/a.png": picture("white"),
}
CAPTIONS = {
    "bucket:mine/fox.png": "a red fox",
    "bucket:mine/fox-small.png": "a small fox",
    "bucket:mine/deep/owl.png": "a blue owl",
    "bucket:mine/deep/bare.png": "",
}
DROPS = {
    "mine/x-copy.png": "exact_duplicate",
    "mine/x-torn.png": "corrupt",
    "mine/x-notes.md": "not_an_image",
    "mine/x-empty.png": "not_an_image",
}


def found(out: Path) -> tuple[dict[str, str], dict[str, str]]:
    records = list(read_jsonl(out / "records.jsonl", RawRecord))
    assert {record.licence for record in records} == {"own"}
    assert {record.licence_evidence for record in records} == {"bucket mine of the deployment"}
    for record in records:
        assert (out / record.file_name).is_file()
    audit = read_jsonl(out / "audit.jsonl", AuditRecord)
    drops = {entry.item: entry.reason for entry in audit if entry.verdict == "dropped"}
    return {record.url: record.caption for record in records}, drops


def test_pictures_of_a_prefix_with_their_captions(s3: Any, context: Context) -> None:
    fill(s3, MINE)
    s3.put_object(Bucket=BUCKET, Key="team/other/secret.png", Body=picture("black"))
    ctx = context()
    report = run(SPEC, ctx)
    assert found(ctx.out) == (CAPTIONS, DROPS)
    assert (report.counts.seen, report.counts.kept) == (8, 4)
    assert report.licences == {"own": 4}


def test_a_file_url_is_read_alike(tmp_path: Path, context: Context) -> None:
    for name, data in MINE.items():
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_bytes(data)
    (tmp_path / "b" / "z-link.png").symlink_to("/etc/hostname")
    ctx = context((tmp_path / "b").as_uri())
    run(SPEC, ctx)
    assert found(ctx.out) == (CAPTIONS, DROPS | {"mine/z-link.png": "outside_root"})


def test_equal_buckets_give_equal_bytes(s3: Any, context: Context) -> None:
    fill(s3, MINE)
    written = []
    for _ in range(2):
        ctx = context()
        run(SPEC, ctx)
        written.append([(ctx.out / f).read_bytes() for f in ("records.jsonl", "audit.jsonl")])
    assert written[0] == written[1]


def test_no_more_than_wanted_are_fetched(s3: Any, context: Context) -> None:
    fill(s3, {f"{n:02d}.png": picture("red", (40, 40 + n)) for n in range(40)})
    ctx = context()
    report = run(SPEC.model_copy(update={"max_images": 3}), ctx)
    assert report.counts.kept == 3
    assert report.counts.dropped == {"over_budget": 37}


def test_what_is_too_large_is_not_fetched(
    s3: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "MAX_BYTES", 2000)
    fill(s3, {"a.png": picture("red"), "b.png": b"x" * 3000})
    ctx = context()
    run(SPEC, ctx)
    assert found(ctx.out)[1] == {"mine/b.png": "too_large"}


def test_few_bytes_are_ahead(s3: Any, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory follows what is read ahead, not the bucket: one at a time with no room ahead."""
    fill(s3, {f"{n}.png": picture("red", (40, 40 + n)) for n in range(6)})
    monkeypatch.setattr(own, "AHEAD_BYTES", 1)
    now, most = set[str](), 0
    real = own.read

    def watched(shelf: own.Shelf, path: str, limit: int) -> bytes:
        nonlocal most
        now.add(path)
        most = max(most, len(now))
        data = real(shelf, path, limit)
        now.discard(path)
        return data

    monkeypatch.setattr(own, "read", watched)
    assert run(SPEC, context()).counts.kept == 6
    assert most == 1


@pytest.mark.parametrize(
    ("buckets", "error", "message"),
    [
        ({"other": "s3://x"}, SpecError, "unknown bucket 'mine'; the deployment offers: other"),
        ({}, SpecError, "offers: none; set LORA_FACTORY_BUCKETS=name=s3://bucket/prefix"),
        ({"mine": "s3://nowhere"}, ConfigurationError, "bucket 'mine' does not exist; correct LO"),
        ({"mine": "file:///no/such"}, DataError, "can't be read: No such file or directory; corr"),
    ],
)
def test_what_is_not_there(
    s3: Any, context: Context, buckets: dict[str, str], error: type[Exception], message: str
) -> None:
    assert s3
    ctx = context()
    settings = ctx.settings.model_copy(update={"buckets": buckets})
    with pytest.raises(error, match=message.replace("(", r"\(")) as caught:
        run(SPEC, StageContext(ctx.inputs, ctx.out, ctx.scratch, settings, ctx.stop))
    assert "verysecret" not in str(caught.value)


def test_nothing_usable_and_nothing_at_all(s3: Any, context: Context) -> None:
    fill(s3, {"a.png": b"no"})
    with pytest.raises(DataError, match=r"images 0 of 1 kept \(not_an_image 1\)"):
        run(SPEC, context())


def test_a_store_that_does_not_answer(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is no S3's; one that answers nothing is asked again for minutes."""

    class Strange(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(418)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Strange) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
        with pytest.raises(ServiceUnavailable, match="bucket 'mine' did not answer") as caught:
            run(SPEC, context())
        server.shutdown()
    assert "verysecret" not in str(caught.value)


def test_own_images_need_no_model() -> None:
    assert roles(SPEC) == ()
