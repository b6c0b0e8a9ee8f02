from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_graphs import TableEmbedder, write_dump, write_wordnet
from labelled_terms import CHOSEN, HELD, Labels
from lora_factory.contracts.expansion import Expansion, ExpansionSpec, Graph, alone
from lora_factory.contracts.settings import Settings
from lora_factory.crawl import plan, stage
from lora_factory.crawl.graph.assertions import import_dump
from lora_factory.crawl.graph.base import Related, best_first
from lora_factory.crawl.graph.expand import expand, revisions
from lora_factory.crawl.graph.terms import Candidate, Sieve, Start, nearness, query, starts
from lora_factory.crawl.graph.wordnet import WordNet
from lora_factory.crawl.links import LinkScorer
from lora_factory.errors import Interrupted
from lora_factory.models.loaders import text_embedder
from lora_factory.models.profiles import load_profile

DEBIAN = Path("/usr/share/wordnet")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("icons of animals, food and objects", "icons animals food objects"),
        ("steam locomotives", "steam_locomotives locomotives steam"),
        ("woodcut birds", "woodcut_birds birds woodcut"),
        ("birds", "birds"),
        ("art nouveau posters (Paris)", "art_nouveau_posters Paris posters art nouveau"),
        ("of the", ""),
        ("...", ""),
        ("123", ""),
    ],
)
def test_what_is_looked_up(topic: str, expected: str) -> None:
    assert [start.text for start in starts(topic)] == [
        word.replace("_", " ") for word in expected.split()
    ]


@given(st.text(max_size=80))
def test_any_topic_can_be_looked_up(topic: str) -> None:
    found = starts(topic)
    assert len(found) <= 8
    assert all(0 < start.weight <= 1 and start.text for start in found)


def test_what_is_searched_for() -> None:
    assert query("woodcut birds", "birds", "owl") == "woodcut owl"
    assert query("icons of animals, food and objects", "animals", "owl") == "owl"
    assert query("birds", "birds", "owl") == "owl"


def test_best_first() -> None:
    found = [Related(term, "r", weight, "s") for term, weight in [("b", 0.2), ("a", 0.2), ("B", 1)]]
    assert [one.term for one in best_first(found, 5)] == ["B", "a"]


def judged(*terms: str | Related, topic: str = "woodcut birds", **cosines: float) -> Sieve:
    start = Start(topic, "birds", "birds", 1.0)
    table = {term.replace("_", " "): cosine for term, cosine in cosines.items()}
    sieve = Sieve([topic], ["en"], 0.4, TableEmbedder({"birds": 0.5, **table}))
    found = [one if isinstance(one, Related) else Related(one, "r", 0.5, "s") for one in terms]
    sieve.kept = sieve.judge([Candidate(start, one) for one in found], "wordnet")  # type: ignore[attr-defined]
    return sieve


def reasons(sieve: Sieve) -> dict[str, str]:
    return {one.text: one.reason for one in sieve.dropped}


def test_drift_is_measured_against_the_topics_own_word() -> None:
    # "birds" has 0.5 of the topic, so a term needs 0.4 of that.
    sieve = judged("owl", "machine", "poet", owl=0.21, machine=0.19, poet=-0.5)
    assert [term.text for _, term in sieve.kept] == ["owl"]  # type: ignore[attr-defined]
    assert reasons(sieve) == {"machine": "drift", "poet": "drift"}
    assert sieve.dropped[0].detail == "0.38 of what the topic's own words have"


def test_terms_of_one_meaning_drift_together() -> None:
    def named(term: str, meaning: str) -> Related:
        return Related(term, "r", 0.5, "s", meaning=meaning, gloss=f"what {term} means")

    animals = [named("owl", "1"), named("kite", "1")]
    prison = [named("lag", "2"), named("con", "2")]
    table = {"owl: what owl means": 0.5, "kite: what kite means": 0.1}  # mean 0.3, of 0.5
    table |= {"lag: what lag means": 0.05, "con: what con means": 0.2}
    start = Start("woodcut birds", "birds", "birds", 1.0)
    sieve = Sieve([start.topic], ["en"], 0.4, TableEmbedder({"birds": 0.5, **table}))
    found = [Candidate(start, one) for one in animals + prison]
    kept = {term.text: term.similarity for _, term in sieve.judge(found, "wordnet")}
    assert kept == {"owl": pytest.approx(0.70), "kite": pytest.approx(0.50)}
    assert reasons(sieve) == {"lag": "drift", "con": "drift"}


@pytest.mark.slow
@pytest.mark.skipif(not (DEBIAN / "data.noun").is_file(), reason="wordnet-base isn't installed")
@pytest.mark.parametrize(("labelled", "least"), [(CHOSEN, 0.87), (HELD, 0.79)])
def test_drift_is_told_on_real_words(labelled: dict[str, Labels], least: float) -> None:
    """The figures of :func:`nearness`, within what rounding may change."""
    graph = WordNet(DEBIAN)
    embedder = text_embedder(load_profile("embedded", Settings()))
    good, drifted = list[float](), list[float]()
    for topic, labels in labelled.items():
        sieve = Sieve([topic], ["en"], 0.4, None)
        found: dict[str, Candidate] = {}
        for start in starts(topic):
            for one in graph.related(start.text, 16):
                if sieve._look(candidate := Candidate(start, one))[0] is None:
                    found.setdefault(one.term, candidate)
        for term, near in zip(found, nearness(list(found.values()), embedder), strict=True):
            if term not in labels.unclear:
                (drifted if term in labels.drifted else good).append(near)
    assert min(len(good), len(drifted)) > 150
    assert np.mean([a > b for a in good for b in drifted]) > least


def test_a_vector_that_is_no_number_passes_nothing() -> None:
    sieve = judged("owl", owl=float("nan"))
    assert reasons(sieve) == {"owl": "drift"}


def test_languages_duplicates_and_what_is_no_term() -> None:
    sieve = judged(
        Related("Vogel", "r", 0.5, "s", language="de"),
        "bird",  # the topic's own word
        "Woodcut Birds",
        "owls",
        "owl",
        "a bird in the hand is worth",
        "the",
        "x\ny",
        "<b>",
    )
    assert [term.text for _, term in sieve.kept] == ["owl"]  # type: ignore[attr-defined]
    assert reasons(sieve) == {
        "Vogel": "language",
        "bird": "duplicate",
        "Woodcut Birds": "duplicate",
        "owls": "duplicate",
        "a bird in the hand is worth": "not_a_term",
        "the": "not_a_term",
        "x\ny": "not_a_term",
        "<b>": "not_a_term",
    }


def test_what_a_prompt_may_not_say_is_not_looked_for() -> None:
    sieve = judged("nude", "p0rn", Related("somebody", "r", 0.5, "s", offensive=True))
    assert set(reasons(sieve).values()) == {"content"}
    assert not sieve.kept  # type: ignore[attr-defined]
    # Harmless alone, not beside the topic's words.
    sieve = judged("girl", topic="nude birds")
    assert reasons(sieve) == {"girl": "content"}


@given(st.lists(st.text(max_size=20)))
def test_any_terms_can_be_judged_and_none_is_lost(found: list[str]) -> None:
    sieve = judged(*found)
    assert len(sieve.kept) + len(sieve.dropped) == len(found)  # type: ignore[attr-defined]


# -- expand, over graphs that make no request


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("graphs")
    dump, file = write_dump(folder / "dump.csv.gz"), folder / "conceptnet.sqlite3"
    import_dump(dump, file, ("de", "en"), lambda *_: None)
    return Settings(
        scratch=folder / "scratch", wordnet=write_wordnet(folder / "wn"), conceptnet_file=file
    )


def told(found: Expansion) -> dict[str, Graph]:
    return {term.text: term.graph for term in found.terms if term.graph is not None}


def test_terms_with_weight_path_and_graph(offline: Settings) -> None:
    found = expand(["woodcut birds"], ExpansionSpec(), offline, TableEmbedder())
    assert [(term.text, term.graph) for term in found.terms] == [
        ("woodcut birds", None),
        ("owl", "wordnet"),
        ("penguin", "wordnet"),
        ("feather", "conceptnet_local"),
        ("chordate", "wordnet"),
        ("animal", "conceptnet_local"),
    ]
    owl = found.terms[1]
    assert (owl.topic, owl.start, owl.graph, owl.query) == (
        "woodcut birds",
        "birds",
        "wordnet",
        "woodcut owl",
    )
    assert [(hop.relation, hop.term) for hop in owl.path] == [("kind of it", "owl")]
    assert owl.weight == pytest.approx(0.9 * 0.8)
    assert [(one.graph, one.status) for one in found.graphs] == [
        ("wordnet", "answered"),
        ("conceptnet_local", "answered"),
    ]
    assert found.queries(2) == ("woodcut birds", "woodcut owl")
    assert LinkScorer(["woodcut birds"], 0.2, found.weights()).score("http://x/", "Owls", 0) > 0.1


def test_the_order_decides_who_names_a_term(offline: Settings) -> None:
    spec = ExpansionSpec(graphs=("conceptnet_local", "wordnet", "conceptnet_local"))
    found = expand(["bird"], spec, offline, TableEmbedder())
    assert told(found)["owl"] == "conceptnet_local"
    assert told(found)["chordate"] == "wordnet"
    assert [one.graph for one in found.graphs] == ["conceptnet_local", "wordnet"]
    assert {one.text: one.reason for one in found.dropped}["owl"] == "duplicate"


def test_depth_leads_on_from_what_is_kept(offline: Settings) -> None:
    one = ExpansionSpec(graphs=("conceptnet_local",))
    two = ExpansionSpec(graphs=("conceptnet_local",), depth=2)
    assert "night" not in told(expand(["bird"], one, offline, TableEmbedder()))
    found = expand(["bird"], two, offline, TableEmbedder())
    night = next(term for term in found.terms if term.text == "night")
    assert [hop.term for hop in night.path] == ["owl", "night"]
    assert night.weight == pytest.approx(0.8 * 0.8 * 0.5 * 0.5)
    # What has drifted leads nowhere.
    drifted = expand(["bird"], two, offline, TableEmbedder({"owl": 0.1}))
    assert "night" not in told(drifted)


def test_fan_out_and_the_limit_of_terms(offline: Settings) -> None:
    narrow = ExpansionSpec(graphs=("wordnet",), fan_out=1)
    assert set(told(expand(["animal"], narrow, offline, TableEmbedder()))) == {"animate being"}
    few = ExpansionSpec(graphs=("wordnet",), max_terms=2)
    found = expand(["animal", "machine", "bird"], few, offline, TableEmbedder())
    assert set(told(found)) == {"animate being", "crane"}  # each topic in turn
    assert "over_limit" in {one.reason for one in found.dropped}
    assert found.graphs[0].kept == 2
    none = ExpansionSpec(graphs=("wordnet",), max_terms=0)
    assert not told(expand(["animal"], none, offline, TableEmbedder()))


def test_every_term_named_is_kept_or_dropped(offline: Settings) -> None:
    spec = ExpansionSpec(depth=3, max_terms=4)
    found = expand(["animal", "bird"], spec, offline, TableEmbedder({"mouse": 0.0}))
    assert sum(one.named for one in found.graphs) == len(found.dropped) + len(told(found))


def test_without_an_embedder_the_topics_stay_alone(offline: Settings) -> None:
    found = expand(["birds"], ExpansionSpec(), offline, None)
    assert found.terms == alone(("birds",)).terms
    assert {one.reason for one in found.dropped} == {"unjudged", "duplicate", "language", "content"}


def test_the_embedder_is_not_asked_for_nothing(offline: Settings) -> None:
    embedder = TableEmbedder()
    assert not told(expand(["zyzzyva"], ExpansionSpec(), offline, embedder))
    assert not embedder.encoded


def test_graphs_that_arent_there_are_skipped(tmp_path: Path) -> None:
    settings = Settings(scratch=tmp_path, crawl_public=False, wordnet=tmp_path / "none")
    spec = ExpansionSpec(graphs=("wordnet", "conceptnet_local", "wikidata", "conceptnet"))
    found = expand(["birds"], spec, settings, TableEmbedder())
    assert found.terms == alone(("birds",)).terms
    assert [(one.graph, one.status, one.asked) for one in found.graphs] == [
        ("wordnet", "skipped", 0),
        ("conceptnet_local", "skipped", 0),
        ("wikidata", "skipped", 0),
        ("conceptnet", "skipped", 0),
    ]
    assert "may not reach" in found.graphs[2].detail
    assert found.seconds < 1
    other = ExpansionSpec(graphs=("wordnet",), languages=("de",))
    assert expand(["Vogel"], other, settings, None).graphs[0].detail == "English only"


def test_no_graphs(offline: Settings) -> None:
    found = expand(["birds", "birds"], ExpansionSpec(graphs=()), offline, None)
    assert found.model_copy(update={"seconds": 0.0}) == alone(("birds",))


def test_damaged_data_is_reported_and_ends_nothing(offline: Settings, tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "wn")
    (folder / "data.noun").write_bytes(b"\x00" * 4000)
    settings = offline.model_copy(update={"wordnet": folder})
    found = expand(["bird"], ExpansionSpec(), settings, TableEmbedder())
    assert [one.status for one in found.graphs] == ["error", "answered"]
    assert "data.noun" in found.graphs[0].detail
    assert told(found)["owl"] == "conceptnet_local"


def test_a_graph_that_hangs_is_left_behind(
    offline: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from lora_factory.crawl.graph.wordnet import WordNet

    def hang(self: WordNet, term: str, limit: int) -> Sequence[Related]:
        time.sleep(3)
        return ()

    monkeypatch.setattr(WordNet, "related", hang)
    found = expand(["bird"], ExpansionSpec(seconds=0.6), offline, TableEmbedder())
    assert [one.status for one in found.graphs] == ["timeout", "answered"]
    assert 0.25 < found.graphs[0].seconds < 1
    assert "owl" in told(found)

    def stop() -> None:
        msg = "asked to stop"
        raise Interrupted(msg)

    began = time.monotonic()
    with pytest.raises(Interrupted):
        expand(["bird"], ExpansionSpec(), offline, TableEmbedder(), stop)
    assert time.monotonic() - began < 1


def test_a_bug_in_a_graph_is_reported_too(
    offline: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_factory.crawl.graph.wordnet import WordNet

    def fail(self: WordNet, term: str, limit: int) -> Sequence[Related]:
        msg = "oh"
        raise RuntimeError(msg)

    monkeypatch.setattr(WordNet, "related", fail)
    found = expand(["bird"], ExpansionSpec(), offline, TableEmbedder())
    assert (found.graphs[0].status, found.graphs[0].detail) == ("error", "RuntimeError: oh")


def test_a_deployments_data_is_part_of_the_key(offline: Settings, tmp_path: Path) -> None:
    found = revisions(offline)
    assert set(found) == {"graph:wordnet", "graph:conceptnet_local"}
    assert revisions(offline) == found
    assert revisions(Settings()) == {}
    gone = {"wordnet": tmp_path / "none", "conceptnet_file": tmp_path / "none"}
    assert revisions(offline.model_copy(update=gone)) == {}
    other = write_wordnet(tmp_path / "wn")
    assert revisions(Settings(wordnet=other))["graph:wordnet"] == found["graph:wordnet"]
    (other / "cntlist.rev").unlink()
    changed = revisions(Settings(wordnet=other))["graph:wordnet"]
    assert changed != found["graph:wordnet"]
    assert plan.conditions({}, offline) == stage.conditions({}, offline) == found
    assert stage.conditions({"plan": None}, offline) == {}  # type: ignore[dict-item]
