"""The page: complete, readable, and harmless whatever the captions hold."""

from __future__ import annotations

import re

import pytest
from evaluate_reports import HOSTILE, full_report, picture, report, row
from lxml import html as parser

from lora_factory.contracts.evaluation import Advice, HardGate, ItemAdvice
from lora_factory.evaluate.html import (
    ReportPictures,
    next_steps,
    render_html,
    verdict_in_words,
)
from lora_factory.reporting.page import LARGEST, LONGEST, picture_uri

ALL = ReportPictures([row()], [row("a chair")], picture("white", (900, 400)))


def text_of(page: str) -> str:
    return " ".join(parser.document_fromstring(page).text_content().split())


def test_the_page_escapes_everything_and_allows_no_script() -> None:
    hostile = full_report(
        trigger=HOSTILE,
        scorer=HOSTILE,
        base=HOSTILE,
        checkpoint=HOSTILE,
        verdict="fail",
        notes=(HOSTILE,),
        gates=(HardGate(name="effect", passed=False, detail=HOSTILE),),
        advice=Advice(reasons=(HOSTILE,)),
        data=full_report().data.model_copy(update={"hosts": {HOSTILE: 3}}),  # type: ignore[union-attr]
    )
    page = render_html(hostile, ReportPictures([row(HOSTILE)], [row(HOSTILE * 90)]))
    tree = parser.document_fromstring(page)
    assert not tree.xpath("//script | //a | //iframe | //object | //link | //form | //base")
    assert not [name for element in tree.iter() for name in element.attrib if name[:2] == "on"]
    assert not tree.xpath("//@style")  # the policy would refuse it
    assert all(uri.startswith("data:image/") for uri in tree.xpath("//@src | //@href"))
    policy = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "49" not in "".join(tree.xpath("//figcaption/text()"))  # {{ 7*7 }} stays text
    assert not {"\u202e", "\x07", "\ud800"} & set(page)
    assert max(len(caption) for caption in tree.xpath("//figcaption/text()")) <= LONGEST + 1
    page.encode("utf-8")


def test_every_picture_says_what_it_shows() -> None:
    tree = parser.document_fromstring(render_html(full_report(), ALL))
    found = tree.xpath("//img/@alt")
    assert len(found) == len(tree.xpath("//img")) == 3 + 2 + 1
    assert "LoRA: red apple" in found
    assert tree.xpath("//svg[@role='img'][not(@aria-label)]") == []
    assert tree.xpath("//html/@lang")


def test_the_page_shows_all_parts_of_a_full_report() -> None:
    words = text_of(render_html(full_report(), ALL))
    for part in (
        "Overall 0.91 (95% interval from 0.87) reaches the threshold 0.85",
        "0.85 – 0.98 0.724 (0.701 – 0.741)mean cosine to the style 24",
        "Not calibrated on people",
        "told 6 sound LoRAs from 18 sabotaged ones of other styles (lucide) with AUC 0.973",
        "difference +0.050, 95% interval +0.010 to +0.090",
        "checkpoints/step-000080.safetensors",
        "Strength 1, 10 steps, guidance 4",
        "MIT 140, CC-BY-4.0 10",
        "crawl: opt_out 1",
        "shown only, not in overall",
        "Drift",
    ):
        assert part in words, part


def test_a_bare_report_has_no_empty_parts() -> None:
    page = render_html(report(), ReportPictures())
    words = text_of(page)
    for absent in ("Drift", "Recommended settings", "Against the deployed", "Training data"):
        assert absent not in words
    assert "This scorer is not calibrated" in words
    assert "raise the rank" in words


def test_numbers_of_the_verdict_are_drawn_where_they_belong() -> None:
    tree = parser.document_fromstring(render_html(full_report(overall=0.5, overall_low=0.25), ALL))
    assert tree.xpath("//div[@class='overall']//circle/@cx")[0] == "52.0"
    assert tree.xpath("//div[@class='overall']//rect[@class='range']/@x")[0] == "27.0"


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (300, 200), (2048, 1024)])
def test_pictures_are_encoded_anew_and_not_large(size: tuple[int, int]) -> None:
    image = picture("red", size)
    image.info["comment"] = "from the web"
    uri = picture_uri(image)
    assert re.match(r"data:image/(png|jpeg);base64,", uri)
    assert len(uri) < 3 * LARGEST**2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "pass", "overall": 0.9, "overall_low": 0.86}, "Pass: overall 0.90"),
        ({}, "Fail: overall 0.60 (95% interval from 0.50) does not reach the threshold 0.85"),
        (
            {"gates": (HardGate(name="no_copies", passed=False),)},
            "Fail: gate closed: No copies of training images",
        ),
        (
            {"verdict": "needs_person", "overall": 0.9, "overall_low": 0.86},
            "Needs a person: overall 0.90 (95% interval from 0.86) reaches the threshold 0.85, "
            "but the scorer is not calibrated",
        ),
    ],
)
def test_the_verdict_in_words(changes: dict[str, object], words: str) -> None:
    assert verdict_in_words(report(**changes)).startswith(words)


def test_what_to_do_after_a_failure_is_the_advice_in_words() -> None:
    advice = Advice(
        reasons=("too weak",),
        rank_scale=2.0,
        learning_rate_scale=0.5,
        steps_scale=1.5,
        drop_alignment_percentile=10.0,
        recaption=True,
        weight_decay=0.05,
        items=(ItemAdvice(sha256="0" * 64, do="drop", reason="off_style"),),
    )
    first, second = next_steps(report(advice=advice))
    assert first == "too weak"
    for part in (
        "learning rate × 0.5",
        "rank × 2",
        "training steps × 1.5",
        "10% of images dropped",
        "1 images dropped",
        "weight decay 0.05",
        "captions written anew",
    ):
        assert part in second
    assert len(next_steps(report(verdict="pass"))) == 1
    assert "Airflow" in next_steps(report(verdict="needs_person"))[0]
