"""Reservations against training, as sites write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.crawl import signals
from lora_factory.crawl.signals import Rule, refusal

ROBOTS = "https://example.org/robots.txt"


def refused(text: str, path: str = "/a.png") -> str:
    return refusal(path, signals.robots_signals(text, "lorafactorybot", ROBOTS).rules)


def test_content_signal_as_cloudflare_writes_it() -> None:
    text = "# As a condition…\nUser-Agent: *\nContent-Signal: search=yes,ai-train=no\nAllow: /\n"
    assert refused(text) == f"Content-Signal: search=yes,ai-train=no in {ROBOTS}"
    assert refused(text.replace("ai-train=no", "ai-train=yes")) == ""
    assert refused("User-agent: *\nContent-Signal: search=no") == ""


def test_a_signal_for_everybody_binds_our_own_group_too() -> None:
    both = "User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: LoRAFactoryBot\nAllow: /\n"
    assert refused(both)
    other = "User-agent: otherbot\nContent-Signal: ai-train=no\n\nUser-agent: *\nAllow: /\n"
    assert refused(other) == ""


def test_content_usage_goes_by_the_most_specific_path() -> None:
    text = "User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /open/ train-ai=y\nAllow: /"
    assert refused(text, "/closed/a.png")
    assert refused(text, "/open/a.png") == ""
    assert refused("User-agent: *\nContent-Usage: /art/*.png$ train-ai=n", "/art/x.png")
    assert refused("User-agent: *\nContent-Usage: /art/*.png$ train-ai=n", "/art/x.png?2") == ""


def test_equally_specific_rules_reserve() -> None:
    rules = [Rule("/a", reserved=True, evidence="no"), Rule("/a", reserved=False, evidence="yes")]
    assert refusal("/a/b", rules) == "no"


def test_tdmrep_file() -> None:
    body = json.dumps([
        {"location": "/", "tdm-reservation": 1, "tdm-policy": "https://example.org/p.json"},
        {"location": "/free/*", "tdm-reservation": 0},
    ]).encode()
    rules = signals.tdmrep_rules(body, "u")
    assert refusal("/x.png", rules) == "tdm-reservation: 1 in u"
    assert refusal("/free/x.png", rules) == ""


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"location": "/"}', b"[1]", b"\xff\xfe", b"[" * 9999]
)
def test_broken_tdmrep_reserves_everything(body: bytes) -> None:
    assert "can't be read" in refusal("/x", signals.tdmrep_rules(body, "u"))


@pytest.mark.parametrize(
    ("headers", "evidence"),
    [
        ({"tdm-reservation": ["1"]}, "header tdm-reservation: 1"),
        ({"tdm-reservation": ["0"]}, ""),
        ({"content-usage": ["train-ai=n"]}, "header content-usage: train-ai=n"),
        ({"content-usage": ["train-ai=y, search=n"]}, ""),
        ({"content-signal": ["ai-train=no"]}, "header content-signal: ai-train=no"),
        ({}, ""),
    ],
)
def test_headers(headers: dict[str, list[str]], evidence: str) -> None:
    assert signals.header_refusal(headers) == evidence


def test_meta() -> None:
    assert signals.meta_refusal([("TDM-Reservation", "1")])
    assert not signals.meta_refusal([("tdm-reservation", "0"), ("robots", "1")])


RSL = """<rsl xmlns="https://rslstandard.org/rsl"><content url="{url}"><license>
{terms}</license></content></rsl>"""


@pytest.mark.parametrize(
    ("terms", "reserved"),
    [
        ('<prohibits type="usage">ai-train</prohibits>', True),
        ('<prohibits type="usage">ai-all</prohibits>', True),
        ('<permits type="usage">search</permits>', True),
        ('<permits type="usage">search, ai-train</permits>', False),
        ('<permits type="usage">all</permits><payment type="free"/>', False),
        ('<permits type="usage">all</permits><payment type="crawl"/>', True),
        ('<payment type="attribution"/>', False),
    ],
)
def test_rsl_terms(terms: str, reserved: bool) -> None:
    rules = signals.rsl_rules(RSL.format(url="/", terms=terms).encode(), "https://e.org/l.xml")
    assert bool(refusal("/x.png", rules)) is reserved


def test_rsl_paths_and_the_most_specific_content() -> None:
    body = (
        b'<rsl xmlns="https://rslstandard.org/rsl"><content url="/"><license>'
        b'<prohibits type="usage">ai-train</prohibits></license></content>'
        b'<content url="https://e.org/open/"><license/></content></rsl>'
    )
    rules = signals.rsl_rules(body, "https://e.org/l.xml")
    assert refusal("/x", rules)
    assert not refusal("/open/x", rules)


def test_hostile_rsl_reserves_and_reads_no_file() -> None:
    bomb = b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY x SYSTEM "file:///etc/passwd">]><rsl>&x;</rsl>'
    assert signals.rsl_rules(bomb, "u") == ()
    assert refusal("/", signals.rsl_rules(b"<rsl>", "u"))


def test_rsl_links() -> None:
    said = signals.robots_signals("License: /l.xml\nUser-agent: *\nDisallow:", "bot", ROBOTS)
    assert said.licences == ("https://example.org/l.xml",)
    headers = {"link": ['<l.xml>; rel="license"; type="application/rsl+xml", </x>; rel="next"']}
    assert list(signals.rsl_links(headers, "https://e.org/a/")) == ["https://e.org/a/l.xml"]


@given(st.text(max_size=500))
def test_no_text_breaks_a_parser(text: str) -> None:
    said = signals.robots_signals(f"User-agent: *\nContent-Usage: {text}\n{text}", "bot", ROBOTS)
    refusal(text, said.rules)
    data = text.encode("utf-8", "ignore")
    refusal("/", (*signals.tdmrep_rules(data, "u"), *signals.rsl_rules(data, "u")))
    signals.header_refusal({"content-usage": [text], "tdm-reservation": [text]})
    list(signals.rsl_links({"link": [text]}, "https://e.org/"))
