"""``python -m lora_factory topics``."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowledge_graphs import EDGES, TableEmbedder, write_dump, write_wordnet
from lora_factory.__main__ import main
from lora_factory.contracts.expansion import ExpansionSpec
from lora_factory.contracts.settings import Settings
from lora_factory.crawl.graph.assertions import LocalConceptNet
from lora_factory.crawl.graph.expand import expand
from lora_factory.models import loaders


def test_a_dump_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    dump, out = write_dump(tmp_path / "dump.csv.gz", EDGES * 5000), tmp_path / "c.sqlite3"
    with caplog.at_level("INFO"):
        done = main(["topics", "import", str(dump), "--out", str(out), "--languages", "en, de"])
    assert done == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "35000 of 45000 lines kept (relation 10000)",
        f"LORA_FACTORY_CONCEPTNET_FILE={out}",
    ]
    assert "topics import" in caplog.text
    assert "edges kept" in caplog.text
    assert LocalConceptNet(out, "de").related("Vogel", 5)[0].term == "bird"


def test_errors_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["topics", "import", str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
    assert "none can't be read: No such file or directory" in caplog.text
    assert main(["topics", "expand", "birds", "--graphs", "wordnet,google"]) == 1
    assert "graphs are wordnet, conceptnet_local, wikidata, conceptnet" in caplog.text


def test_an_expansion_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_FACTORY_WORDNET", str(write_wordnet(tmp_path)))
    drifts = TableEmbedder({"penguin: short-legged flightless birds": -1.0})
    monkeypatch.setattr(loaders, "text_embedder", lambda _: drifts)
    assert main(["topics", "expand", "woodcut birds", "--graphs", "wordnet"]) == 0
    told = capsys.readouterr().out
    assert " 1.00        topic  woodcut birds\n" in told
    assert " 0.72  0.50  birds → [kind of it] owl\n" in told
    assert "wordnet answered in" in told
    assert "left out: drift 1" in told
    found = expand(
        ["birds"], ExpansionSpec(), Settings(wordnet=tmp_path, scratch=tmp_path), TableEmbedder()
    )
    assert (found.graphs[0].asked, found.graphs[0].kept) == (1, 3)
