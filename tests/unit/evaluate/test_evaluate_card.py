"""The model card: metadata, and no number that isn't in the evaluation or the manifests."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from evaluate_reports import HOSTILE, full_report, report
from huggingface_hub import ModelCard

from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.manifest import InputEntry, Manifest
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, write_jsonl
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.contracts.training import TrainReport
from lora_factory.errors import DataError
from lora_factory.evaluate.card import (
    CardSources,
    data_statistics,
    generate_lora_card,
    inherited_licence,
)
from lora_factory.models.profiles import BaseEntry, load_profile

TRAINED = TrainReport(
    base="emoji",
    trigger="ohcx",
    rank=16,
    steps=240,
    best_step=200,
    train_loss=0.56139,
    validation_loss_before=0.55245,
    validation_loss=0.45502,
    images_per_second=41.67,
    peak_memory_mb=803.9,
)


def artifact(folder: Path, kind: str, stats: dict[str, Any], inputs: list[str]) -> LocalArtifact:
    manifest = Manifest.model_validate({
        "kind": kind,
        "stage": kind,
        "stage_version": 1,
        "key": "k",
        "attempt": "a",
        "spec": {},
        "stats": stats,
        "models": {"base:emoji": "sha256:bff75641a9a3e00c"},
        "inputs": tuple(
            InputEntry(name=name, manifest_uri=f"file:///store/{name}", sha256="ab" * 32)
            for name in inputs
        ),
        "code_version": "0",
        "created_at": datetime.now(UTC),
    })
    return LocalArtifact(folder, manifest, f"file:///store/{kind}/manifest.json", "cd" * 32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for part, count in (("train", 6), ("validation", 2)):
        (tmp_path / part).mkdir()
        write_jsonl(
            tmp_path / part / "metadata.jsonl",
            (
                DatasetRecord(
                    file_name=f"{n}.png",
                    text="ohcx apple",
                    subject="apple",
                    licence="CC-BY-4.0" if n else "MIT",
                    source=f"https://{'a' if n % 2 else 'b'}.example.org/{n}.png",
                    sha256="0" * 64,
                )
                for n in range(count)
            ),
        )
    rows = [
        {"item": str(n), "what": what, "stage": "crawl", "verdict": verdict, "reason": reason}
        for n, (what, verdict, reason) in enumerate([
            ("image", "dropped", "opt_out"),
            ("image", "dropped", "opt_out"),
            ("image", "kept", ""),
            ("page", "dropped", "ads"),
        ])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "audit.parquet")
    info = DatasetInfo(
        trigger="ohcx",
        style="outline icon",
        theme="things",
        keywords=("icon",),
        domain="art",
        train=6,
        validation=2,
        resolution=64,
    )
    (tmp_path / "dataset.json").write_text(info.model_dump_json())
    return tmp_path


def base_entry() -> BaseEntry:
    return load_profile("embedded", Settings()).bases["emoji"]


def sources(dataset: Path, evaluation: EvaluationReport) -> CardSources:
    return CardSources(
        report=evaluation,
        trained=TRAINED,
        lora=artifact(dataset, "lora", TRAINED.model_dump(mode="json"), ["dataset", "plan"]),
        dataset=artifact(dataset, "dataset", {}, ["clean"]),
        base=base_entry(),
        samples=[("apple, ohcx style", "samples/0000.png"), ("b", "samples/0001.png")],
    )


def tables(card: str) -> list[str]:
    """Rows without their headings."""
    lines = card.splitlines()
    return [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("|") and not {"|---"} & {line[:4], following[:4]}
    ]


def test_the_metadata_is_what_the_hub_reads(dataset: Path) -> None:
    found = ModelCard(generate_lora_card(sources(dataset, full_report()))).data
    assert found.base_model == "emoji"
    assert found.base_model_relation == "adapter"
    assert found.instance_prompt == "ohcx"
    assert found.license == "cc-by-4.0"
    assert set(found.tags) >= {"lora", "diffusers", "text-to-image", "template:diffusion-lora"}
    assert found.widget[0] == {
        "text": "apple, ohcx style",
        "output": {"url": "samples/0000.png"},
    }
    scores = {result.metric_type: result.metric_value for result in found.eval_results}
    assert scores == {"fidelity": 0.9121, "drift": 0.35, "overall": 0.913}


def numbers_in(value: object) -> list[float]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return [float(value)]
    if isinstance(value, dict):
        return [n for one in value.values() for n in numbers_in(one)]
    return [n for one in value for n in numbers_in(one)] if isinstance(value, list) else []


def test_every_number_of_the_tables_is_in_the_report_or_the_manifests(dataset: Path) -> None:
    evaluation = full_report(data=data_statistics(dataset))
    given = sources(dataset, evaluation)
    evidence: list[Any] = [
        json.loads(evaluation.model_dump_json()),
        json.loads(given.lora.manifest.model_dump_json()),
        json.loads(given.dataset.manifest.model_dump_json()),
        [given.lora.uri, given.lora.sha256],
    ]
    known, words = numbers_in(evidence), json.dumps(evidence, ensure_ascii=False)
    rows = tables(generate_lora_card(given))
    checked = 0
    for row in rows:
        for cell in row.strip("|").split(" | "):
            plain = cell.strip().strip("`").replace("\\", "").replace("\u200b", "")
            plain = re.sub("^(licence |source |dropped, )", "", plain)
            if plain in words and re.search(r"[a-z]", plain, re.IGNORECASE):
                continue  # a word or note of the report as it is
            for token in re.findall(r"-?\d+(?:\.\d+)?", plain):
                digits = len(token.partition(".")[2])
                assert any(f"{n:.{digits}f}" == token for n in known), f"{token} in {row}"
                checked += 1
    assert checked > 30


def test_a_made_up_number_would_be_found(dataset: Path) -> None:
    """The check above, sabotaged: the card tells of a report that isn't the evidence."""
    row = next(
        line
        for line in tables(generate_lora_card(sources(dataset, full_report(overall=0.777))))
        if line.startswith("| overall")
    )
    assert "0.777" in row
    assert not any(f"{n:.3f}" == "0.777" for n in numbers_in([full_report().model_dump()]))


def test_words_of_the_web_stay_words(dataset: Path) -> None:
    hostile = full_report(
        trigger=HOSTILE,
        notes=(HOSTILE,),
        data=data_statistics(dataset).model_copy(update={"hosts": {HOSTILE: 1}}),
    )
    given = sources(dataset, hostile)
    info = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(
        json.dumps({**info, "style": HOSTILE.replace("\ud800", "")})
    )
    given = CardSources(
        given.report, given.trained, given.lora, given.dataset, given.base,
        [(HOSTILE, "samples/0000.png")],
    )  # fmt: skip
    card = generate_lora_card(given)
    head, body = card.split("\n---\n", 1)
    metadata = yaml.safe_load(head.removeprefix("---\n"))
    assert metadata["widget"][0]["text"].startswith("<script>")  # a string, by YAML's own rules
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<", outside)
    assert not re.search(r"(?<!\\)\]\((?!samples/)", outside)
    assert "\n---" not in body
    assert not {"\u202e", "\x07", "\ud800"} & set(card)
    assert len({line.count(" | ") for line in tables(card) if "ohcx" in line}) <= 1


def test_a_lora_that_failed_says_so_first(dataset: Path) -> None:
    card = generate_lora_card(sources(dataset, report()))
    assert "has failed its evaluation" in card.split("\n## ")[0]
    assert "Not measured." in card
    assert "It is not calibrated." in card
    assert "alignment: abstains" in card


def test_a_lora_that_waits_for_a_person_says_so_first(dataset: Path) -> None:
    card = generate_lora_card(sources(dataset, full_report(verdict="needs_person")))
    assert "a person has to look at it" in card.split("\n## ")[0]
    passed = generate_lora_card(sources(dataset, full_report()))
    assert "a person has to look at it" not in passed


def test_the_data_is_counted_from_the_dataset(dataset: Path) -> None:
    found = data_statistics(dataset)
    assert (found.train, found.validation) == (6, 2)
    assert found.licences == {"CC-BY-4.0": 6, "MIT": 2}
    assert found.hosts == {"b.example.org": 4, "a.example.org": 4}
    assert found.dropped == {"crawl: opt_out": 2}
    (dataset / "audit.parquet").unlink()
    assert data_statistics(dataset).dropped == {}


def test_a_damaged_audit_is_an_error(dataset: Path) -> None:
    (dataset / "audit.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="make the dataset anew"):
        data_statistics(dataset)


@pytest.mark.parametrize(
    ("licences", "base", "expected"),
    [
        ({"MIT": 3}, "Apache-2.0", "apache-2.0"),
        ({"MIT": 3, "CC-BY-SA-4.0": 1}, "Apache-2.0", "cc-by-sa-4.0"),
        ({"CC0-1.0": 3}, "CreativeML-OpenRAIL-M", "creativeml-openrail-m"),
        ({"own": 3}, "MIT", "mit"),
        ({"MIT": 3, "unknown": 1}, "MIT", "unknown"),
        ({"MIT": 3, "Some-EULA": 1}, "MIT", "other"),
        ({"MIT": 3}, "unknown", "unknown"),
        ({}, "MIT", "mit"),
    ],
)
def test_the_most_restrictive_licence_is_inherited(
    licences: dict[str, int], base: str, expected: str
) -> None:
    found, why = inherited_licence(licences, base)
    assert found == expected
    assert all(name in why for name in (*licences, base))
