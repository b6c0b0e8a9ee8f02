from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_graphs import write_wordnet
from lora_factory.crawl.graph.base import Absent, Unreadable
from lora_factory.crawl.graph.wordnet import WordNet, parse_index, parse_synset

DEBIAN = Path("/usr/share/wordnet")


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write_wordnet(tmp_path_factory.mktemp("wordnet")))


def found(graph: WordNet, term: str, limit: int = 50) -> dict[str, str]:
    return {one.term: one.relation for one in graph.related(term, limit)}


def test_synonyms_kinds_at_any_depth_and_the_class(wordnet: WordNet) -> None:
    assert found(wordnet, "animal") == {
        "animate being": "synonym",
        "chordate": "kind of it",
        "bird": "kind of it",
        "owl": "kind of it",
        "penguin": "kind of it",
        "polar bear": "kind of it",
        "mouse": "kind of it",
        "slurword": "kind of it",
    }
    assert found(wordnet, "owl") == {"bird of Minerva": "synonym", "bird": "broader"}


def test_what_people_write_about_comes_first(wordnet: WordNet) -> None:
    kinds = [one for one in wordnet.related("animal", 50) if one.relation == "kind of it"]
    assert [one.term for one in kinds[:4]] == ["owl", "mouse", "penguin", "chordate"]
    weights = [one.weight for one in kinds]
    assert weights == sorted(weights, reverse=True)
    assert all(0 < weight <= 1 for weight in weights)
    assert len(wordnet.related("animal", 3)) == 3


@pytest.mark.parametrize("plural", ["owls", "mice", "Polar Bears", "polar  bear"])
def test_plurals_and_words_of_two(wordnet: WordNet, plural: str) -> None:
    assert found(wordnet, plural)


def test_an_unknown_word_has_no_neighbours(wordnet: WordNet) -> None:
    for word in ("zyzzyva", "", "ow", "owl owl", "ö" * 100, "a\n", "animal n"):
        assert not wordnet.related(word, 5)


def test_slurs_are_marked(wordnet: WordNet) -> None:
    marked = {one.term for one in wordnet.related("animal", 50) if one.offensive}
    assert marked == {"slurword"}


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="install wordnet-base or set LORA_FACTORY_WORDNET"):
        WordNet(tmp_path)
    (tmp_path / "index.noun").touch()
    (tmp_path / "data.noun").touch()
    with pytest.raises(Absent):
        WordNet(tmp_path)


def test_files_of_two_versions(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path)
    data = folder / "data.noun"
    data.write_text(data.read_text().replace(" 05 n ", "_05 n ", 1))
    with pytest.raises(Unreadable, match=r"data\.noun"):
        WordNet(folder).related("animal", 5)
    data.write_text(" " + data.read_text())
    with pytest.raises(Unreadable, match=r"data\.noun"):
        WordNet(folder).related("owl", 5)
    data.write_text("short\n")
    with pytest.raises(Unreadable, match=r"data\.noun"):
        WordNet(folder).related("owl", 5)


@given(st.text())
def test_parsers_raise_nothing_else(line: str) -> None:
    for parse in (parse_index, parse_synset):
        with contextlib.suppress(Unreadable):
            parse(line)


@given(index=st.binary(max_size=400), data=st.binary(max_size=400))
def test_any_files_raise_nothing_else(
    index: bytes, data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "index.noun").write_bytes(b"\nowl n 1 0 1 0 00000000\n" + index)
    (folder / "data.noun").write_bytes(data + b"\n")
    graph = WordNet(folder)
    for word in ("owl", "penguin", "a"):
        with contextlib.suppress(Unreadable):
            graph.related(word, 5)


@pytest.mark.skipif(not (DEBIAN / "data.noun").is_file(), reason="wordnet-base isn't installed")
def test_the_real_one() -> None:
    graph = WordNet(DEBIAN)
    assert {"horse", "dog", "bird", "cat"} <= set(found(graph, "animals", 16))
    assert {"duck", "owl", "falcon"} <= set(found(graph, "birds", 24))
    assert "Hart Crane" not in found(graph, "crane")  # the bird and the machine
    assert "kind of it" not in found(graph, "entity").values()  # everything is one
    assert "whole" not in found(graph, "woodcut")
