"""Real documentation, as Debian packages bring it, crawled from a server on this machine."""

from __future__ import annotations

import functools
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from crawl_rig import Crawl
from PIL import Image

from lora_factory.contracts.specs import CrawlSpec
from lora_factory.crawl.extract import Page, parse_page
from lora_factory.crawl.quality import fault

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PACKAGES = ("debian-handbook", "gimp-help-en", "python3.11-doc")
CACHE = Path(__file__).resolve().parents[3] / "build" / "debian-docs"
HANDBOOK = "doc/debian-handbook/html/en-US"
PYTHON = "doc/python3.11/html"
GIMP = "gimp/2.0/help/en"


@pytest.fixture(scope="module")
def share() -> Path:
    """``/usr/share`` of the packages, downloaded once and kept in build/."""
    folder = CACHE / "usr" / "share"
    for package in PACKAGES:
        mark = CACHE / f"{package}.done"
        if mark.exists():
            continue
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            for command in (["apt-get", "download", package], ["dpkg", "-x"]):
                found = [str(path) for path in CACHE.glob(f"{package}_*.deb")]
                full = [*command, *found, "."] if command[0] == "dpkg" else command
                subprocess.run(full, cwd=CACHE, check=True, capture_output=True, timeout=180)
        except (OSError, subprocess.SubprocessError) as err:
            pytest.skip(f"apt-get can't bring {package}: {err}")
        for path in CACHE.glob(f"{package}_*.deb"):
            path.unlink()
        mark.touch()
    return folder


@pytest.fixture(scope="module")
def docs(share: Path) -> Iterator[str]:
    """``host:port`` of a server of it."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(share))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def crawled(new_crawl: Callable[..., Crawl], docs: str) -> Crawl:
    """The handbook of Debian and GIMP's help."""
    crawl = new_crawl(
        hosts=[docs],
        seeds=[f"http://{docs}/{HANDBOOK}/index.html", f"http://{docs}/{GIMP}/index.html"],
        topics=["installing and administering a Debian system", "editing pictures with GIMP"],
        max_pages=150,
        max_images=120,
        allow_unknown_licence=True,
    )
    return crawl.start().wait(300)


def test_most_pages_of_a_manual_are_kept(crawled: Crawl) -> None:
    stats = crawled.manifest["stats"]
    poor = {"low_entropy", "too_short", "word_length", "repetitive", "language", "ads"}
    dropped = sum(stats["pages_dropped"].get(reason, 0) for reason in poor)
    assert stats["pages_kept"] >= 60
    assert dropped <= 0.2 * (stats["pages_kept"] + dropped)
    assert not {"unparsable", "internal_error"} & set(stats["pages_dropped"])


def test_its_images_come_with_words(crawled: Crawl) -> None:
    records = crawled.records
    assert len(records) >= 40
    worded = [r for r in records if r.caption or r.alt or r.nearby]
    assert len(worded) >= 0.9 * len(records)
    for record in records[:20]:
        with Image.open(crawled.artifact / record.file_name) as image:
            assert image.size == (record.width, record.height)


def test_navigation_icons_are_no_pictures(crawled: Crawl) -> None:
    boilerplate = [e for e in crawled.audit if e.reason == "boilerplate"]
    assert boilerplate
    assert not {e.item for e in boilerplate} & {r.url for r in crawled.records}


def read(path: Path) -> Page:
    return parse_page(path.read_bytes(), f"http://docs.example/{path.name}", "utf-8")


@pytest.mark.parametrize(
    ("path", "says", "boilerplate"),
    [
        (f"{PYTHON}/library/asyncio.html", "library to write concurrent code", "Previous topic"),
        (f"{PYTHON}/tutorial/errors.html", "Syntax errors, also known as parsing", "Quick search"),
        (f"{HANDBOOK}/sect.kernel-compilation.html", "kernel", "Download the ebook"),
    ],
)  # fmt: skip
def test_the_main_text_is_the_chapter(share: Path, path: str, says: str, boilerplate: str) -> None:
    text = read(share / path).text
    assert says in text
    assert boilerplate not in text


def test_other_languages_are_told_apart(share: Path) -> None:
    spec = CrawlSpec.model_validate({"topics": ["Debian"], "as_of": "2026-11-24"})
    for language in ("fr-FR", "ja-JP", "ru-RU", "zh-CN"):
        page = read(share / f"doc/debian-handbook/html/{language}/sect.why-debian.html")
        found = fault(page, spec)
        assert found is not None
        assert found[0] == "language"
        assert found[1].startswith(language[:2])
