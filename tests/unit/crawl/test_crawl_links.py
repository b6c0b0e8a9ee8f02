from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_factory.crawl.hosts import HostRules, host_and_port
from lora_factory.crawl.links import LinkScorer, canonical_url, looks_endless, may_be_page, terms
from lora_factory.errors import ConfigurationError

TOPICS = ("icons of animals, food and objects",)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Gallery.Example:80/a/../b?y=2&x=1#top", "http://gallery.example/b?x=1&y=2"),
        ("https://gallery.example:443", "https://gallery.example/"),
        ("https://gallery.example:8443/", "https://gallery.example:8443/"),
        ("http://gallery.example/%7Euser/a b", "http://gallery.example/~user/a%20b"),
        ("http://münchen.example/", "http://xn--mnchen-3ya.example/"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        ("../rooms/tools.html?", "http://base.example/rooms/tools.html"),
        ("  /spaces.html\n", "http://base.example/spaces.html"),
        ("//cdn.example/x.png", "http://cdn.example/x.png"),
        ("/a;JSESSIONID=0A1B?PHPSESSID=7&id=2&utm_source=x", "http://base.example/a?id=2"),
    ],
)
def test_one_spelling(url: str, expected: str) -> None:
    assert canonical_url(url, "http://base.example/de/index.html") == expected


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "ftp://host.example/",
        "data:text/html,x",
        "mailto:a@b.example",
        "http://user:secret@host.example/",
        "http://host.example:port/",
        "http://[::1/",
        "http:///path",
        "http://host.example/a\x00b",
        "http://host.example/" + "a" * 3000,
    ],
)
def test_what_a_crawler_must_not_follow(url: str) -> None:
    assert canonical_url(url) is None


@given(st.text(max_size=60))
@example("http://a.example/%25%32%35")
@example("http://a.example/?%26=%3D&+")
@example("http://ß.example/")
def test_canonical_never_raises_and_is_a_fixed_point(text: str) -> None:
    for url in (text, f"http://host.example/{text}", f"http://host.example/?{text}"):
        found = canonical_url(url)
        if found is not None:
            assert canonical_url(found) == found
            assert host_and_port(found) is not None


def test_links_to_files_are_no_pages() -> None:
    assert may_be_page("http://h.example/rooms/")
    assert may_be_page("http://h.example/a.html")
    assert may_be_page("http://h.example/v1.2/about")
    assert not may_be_page("http://h.example/picture.PNG")
    assert not may_be_page("http://h.example/all.zip?download=1")


def test_paths_that_grow_as_those_of_traps_do() -> None:
    assert not looks_endless("http://h.example/2026/11/24/icons/a.html")
    assert not looks_endless("http://h.example/a/b/a/b/a")
    assert looks_endless("http://h.example/a/b/a/b/a/b/a/")
    assert looks_endless("http://h.example/" + "/".join(map(str, range(21))))


def test_terms_drop_common_words_and_plurals() -> None:
    assert terms("The icons of animals: berries & glass") == {"icon", "animal", "berry", "glass"}


def test_every_link_of_a_page_on_topic_is_relevant() -> None:
    scorer = LinkScorer(TOPICS, min_relevance=0.2)
    assert scorer.relevant(scorer.score("http://h.example/x", "read on", parent=0.2))


def test_off_topic_pages_lead_on_only_by_words() -> None:
    scorer = LinkScorer(TOPICS, min_relevance=0.2)
    plain = scorer.score("http://h.example/deadlines", "Filing deadlines", parent=0.0)
    by_anchor = scorer.score("http://h.example/x", "Animal icon gallery", parent=0.0)
    by_path = scorer.score("http://h.example/food-icons/", "more", parent=0.0)
    assert not scorer.relevant(plain)
    assert scorer.relevant(by_anchor)
    assert scorer.relevant(by_path)


def test_better_parents_and_more_words_score_higher() -> None:
    scorer = LinkScorer(TOPICS, min_relevance=0.2)
    scores = [
        scorer.score("http://h.example/x", anchor, parent)
        for anchor, parent in [
            ("x", 0.1),
            ("food", 0.1),
            ("animal food", 0.1),
            ("animal food", 0.9),
        ]
    ]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4
    assert scorer.score("http://h.example/x", "icon animal food object", 1.0) == 1.0


def test_further_terms_count_as_much_as_they_weigh() -> None:
    plain = LinkScorer(TOPICS, min_relevance=0.2)
    weights = {TOPICS[0]: 1.0, "polar bear": 0.6, "bear": 0.3, "owl": 0.9, "animal icons": 0.9}
    wide = LinkScorer(TOPICS, 0.2, weights)

    def gain(anchor: str, path: str = "x") -> float:
        url = f"http://h.example/{path}"
        return round(wide.score(url, anchor, 0.1) - plain.score(url, anchor, 0.1), 6)

    third = 0.5 / 3  # what one of the topics' own words is worth
    assert gain("Owls at night") == round(0.9 * third, 6)
    assert gain("all of them", "polar-bears/") == round(0.6 * third, 6)  # no word counts twice
    assert gain("a polar night") == 0  # not all of its words
    assert gain("bears") == round(0.3 * third, 6)
    assert gain("animal icons") == 0  # the topics' own words count already
    assert gain("bookkeeping") == 0
    assert wide.relevant(wide.score("http://h.example/x", "Owls", 0.0))
    assert not wide.relevant(wide.score("http://h.example/x", "Bears", 0.0))
    assert not plain.relevant(plain.score("http://h.example/x", "Owls", 0.0))


@given(st.dictionaries(st.text(max_size=12), st.floats(0.01, 1), max_size=6), st.text(max_size=40))
def test_scores_stay_scores_and_further_terms_only_add(
    weights: dict[str, float], anchor: str
) -> None:
    wide = LinkScorer(TOPICS, 0.2, weights).score("http://h.example/x", anchor, 0.5)
    plain = LinkScorer(TOPICS, 0.2).score("http://h.example/x", anchor, 0.5)
    assert plain <= wide <= 0.75


def test_allowed_hosts() -> None:
    rules = HostRules(["gallery.example", "127.0.0.1:8800"], public=False)
    assert rules.allows("http://gallery.example/x")
    assert rules.allows("https://GALLERY.example./x")
    assert rules.allows("http://127.0.0.1:8800/")
    for url in (
        "http://gallery.example:8080/",
        "http://sub.gallery.example/",
        "http://gallery.example.evil.example/",
        "http://127.0.0.1/",
        "http://127.0.0.1:8801/",
        "http://2130706433:8800/",
        "http://localhost:8800/",
        "http://gallery.example@evil.example/",
        "http://evil.example/?gallery.example",
        "ftp://gallery.example/",
        "file://gallery.example/etc/passwd",
        "",
    ):
        assert not rules.allows(url), url


def test_a_port_80_entry_does_not_open_443() -> None:
    assert not HostRules(["h.example:80"], public=False).allows("https://h.example/")


@pytest.mark.parametrize("entries", [[], ["http://h.example/"], ["a b:c"], ["h.example:x"], [""]])
def test_unusable_host_lists_name_the_variable(entries: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="LORA_FACTORY_CRAWL_HOSTS"):
        HostRules(entries, public=False)


@given(st.text(max_size=40))
def test_host_and_port_never_raises(text: str) -> None:
    host_and_port(text)
    host_and_port(f"http://{text}/")
