"""A dataset's page in a real browser: it fits, shows its pictures, and asks nobody for anything.

Chromium is the system's (``CHROMIUM``, or ``chromium`` or ``google-chrome`` on the
path); without one these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_factory.contracts.base import Counts
from lora_factory.contracts.records import AuditRecord, DatasetInfo, DatasetRecord, Labels
from lora_factory.imaging.agreement import Agreement
from lora_factory.label.page import Thumbnails, choose_shown, render_dataset
from lora_factory.label.report import LabelReport
from lora_factory.label.summary import summarise
from lora_factory.label.taxonomy import load_taxonomy

CHROMIUM = os.environ.get("CHROMIUM", "") or next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)
HOSTILE = '"><img src=http://127.0.0.1:9/x onerror=alert(1)><script>alert(1)</script>'
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def page_text() -> str:
    """Two hundred pictures of all themes, dropped ones, many licences, words of an attacker."""
    taxonomy = load_taxonomy()
    names = list(taxonomy.themes)
    records = [
        DatasetRecord(
            file_name=f"{n:064x}.png",
            text=f"{HOSTILE if n == 3 else 'a subject of some words'} {n}, zuvok style",
            subject="a subject",
            labels=Labels(
                theme=taxonomy.path(names[n]),
                style="line art",
                keywords=("one", "two", "three", "four", "five"),
                confidence=0.9,
            ),
            licence=f"licence {n % 11}" if n % 2 else HOSTILE,
            source=f"http://host-{n % 5}.test/{n}.png",
            sha256=f"{n:064x}",
        )
        for n in range(200)
    ]
    audit = [
        AuditRecord(
            item=f"{n + 500:064x}",
            what="image",
            stage="sanitize",
            verdict="dropped",
            reason="near_duplicate" if n % 2 else "blurred",
            detail=f"of {n:064x}" if n % 2 else HOSTILE,
        )
        for n in range(40)
    ]
    shown = choose_shown(records)
    picture = Image.new("RGB", (96, 64), "teal")
    info = DatasetInfo(
        trigger="zuvok",
        style="line art",
        theme="animals",
        keywords=("one", "two"),
        domain="art",
        train=170,
        validation=30,
        resolution=64,
    )
    counts = Counts(seen=240, kept=200)
    return render_dataset(
        info,
        report(counts),
        summarise(records, audit, list(range(200)), taxonomy, 4),
        shown,
        {record.sha256 for record in records[:30]},
        Thumbnails(
            {record.sha256: picture for record in records},
            {line.item: picture for line in audit},
        ),
    )


def report(counts: Counts) -> LabelReport:
    return LabelReport(
        counts=counts,
        trigger="zuvok",
        trigger_given=False,
        trigger_tokens={"emoji": 3},
        theme="animals",
        themes={},
        unknown_share=0,
        confidence_mean=0.9,
        style="line art",
        style_source="labels",
        styles={"line art": 200},
        schools={"unknown": 200},
        tones={"grey": 200},
        keywords=("one", "two"),
        keywords_padded=0,
        captions={"found": 200},
        agreement=Agreement(pairs=200, auc=0.9, low=0.8),
        theme_weight=0,
        style_weight=0,
        train=170,
        validation=30,
        groups=200,
        pages=5,
        pages_parted=("http://host-1.test/",),
        resolution=64,
        scorer="x",
        labeler="zero-shot",
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(page_text(), encoding="utf-8")
    return found


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_and_every_picture_loads(browser: Any, file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.evaluate("document.images.length") >= 24
    page.close()


def test_it_asks_nobody_and_runs_nothing(browser: Any, file: Path) -> None:
    page = browser.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri(), wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert said == []
    assert "alert(1)" in page.inner_text("body")  # it is there, as text
    page.close()
