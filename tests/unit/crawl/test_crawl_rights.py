from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.crawl.licences import Licence, licence_id, refusal, settle
from lora_factory.crawl.optout import (
    NO_IMAGE,
    NO_PAGE,
    header_directives,
    meta_directives,
    product_token,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://www.creativecommons.org/licenses/by-sa/3.0/de/deed.de", "CC-BY-SA-3.0"),
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode.en", "CC-BY-NC-ND-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "PDM-1.0"),
        ("https://opensource.org/license/mit", "MIT"),
        ("https://opensource.org/licenses/MIT", "MIT"),
        ("https://spdx.org/licenses/CC-BY-SA-4.0.html", "CC-BY-SA-4.0"),
        ("https://www.apache.org/licenses/LICENSE-2.0.txt", "Apache-2.0"),
        ("https://opendatacommons.org/licenses/pddl/1-0/", "PDDL-1.0"),
        ("https://evil.example/creativecommons.org/licenses/by/4.0/", "unknown"),
        ("https://creativecommons.org.evil.example/licenses/by/4.0/", "unknown"),
        ("https://creativecommons.org/licenses/by/4.0/../../by-nc/4.0/", "unknown"),
        ("https://creativecommons.org/", "unknown"),
        ("https://opensource.org/license/mit-0", "unknown"),
        ("/LICENSE", "unknown"),
        ("javascript:void(0)", "unknown"),
        ("http://[", "unknown"),
    ],
)
def test_licence_urls(url: str, expected: str) -> None:
    assert licence_id(url) == expected


@given(st.text(max_size=80))
def test_licence_id_never_raises(text: str) -> None:
    assert isinstance(licence_id(text), str)


def test_links_must_agree() -> None:
    mit, by = "https://opensource.org/license/mit", "https://creativecommons.org/licenses/by/4.0/"
    assert settle([mit, mit]) == Licence("MIT", mit)
    assert settle([mit, "https://spdx.org/licenses/MIT"]).id == "MIT"
    assert settle([mit, by]) == Licence("unknown", f"{mit} {by}")
    assert settle([mit, "/terms"]).id == "unknown"
    assert settle([]) == Licence()


def test_unknown_is_refused_unless_asked_for() -> None:
    assert refusal("unknown", ["MIT"], allow_unknown=False) == "licence_unknown"
    assert refusal("unknown", ["MIT"], allow_unknown=True) == ""
    assert refusal("CC-BY-NC-4.0", ["MIT"], allow_unknown=True) == "licence_not_allowed"
    assert refusal("MIT", ["MIT"], allow_unknown=False) == ""
    # Listing "unknown" among the licences is not the switch.
    assert refusal("unknown", ["unknown"], allow_unknown=False) == "licence_unknown"


def test_product_token() -> None:
    assert product_token("LoRAFactoryBot/0.1 (+https://example.org)") == "lorafactorybot"
    assert product_token("1bot") == "*"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["noai, NoImageAI"], {"noai", "noimageai"}),
        (["noindex", "nofollow"], {"noindex", "nofollow"}),
        (["lorafactorybot: noindex, noai"], {"noindex", "noai"}),
        (["otherbot: noindex, noai"], set()),
        (["otherbot: noindex, lorafactorybot: noai"], {"noai"}),
        (["*: noml"], {"noml"}),
        (["max-image-preview: large, noindex"], {"max-image-preview: large", "noindex"}),
        (["", " , "], set()),
    ],
)
def test_x_robots_tag(values: list[str], expected: set[str]) -> None:
    assert header_directives(values, "lorafactorybot") == expected


def test_meta_robots() -> None:
    metas = [("ROBOTS", "NoAI, nofollow"), ("description", "noindex"), ("otherbot", "noindex")]
    assert meta_directives(metas, "lorafactorybot") == {"noai", "nofollow"}
    assert meta_directives([("LoRAFactoryBot", "noindex")], "lorafactorybot") == {"noindex"}


def test_an_image_opt_out_leaves_the_page() -> None:
    assert "noimageai" not in NO_PAGE
    assert {"noai", "noimageai", "noimageindex", "noml", "noindex"} <= NO_IMAGE
