"""The daily DAG against a real PostgreSQL with synthetic ratings."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from dag_runs import Run, load_dag

from lora_factory.contracts.registry import NewModel
from lora_factory.demo.postgres import EmbeddedPostgres
from lora_factory.store.catalog import Catalog, Generation

pytestmark = pytest.mark.integration
VERSION = "aaaaaaaaaaaa"


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="lora_factory_pg_") as folder,
        EmbeddedPostgres(Path(folder) / "data") as server,
    ):
        yield server.dsn("catalog")


@pytest.fixture(scope="module")
def catalog(dsn: str) -> Catalog:
    catalog = Catalog(dsn)
    catalog.migrate()
    for name in ("liked", "disliked"):
        catalog.publish(
            NewModel(
                name=name,
                version=VERSION,
                sha256="a" * 64,
                base="emoji",
                trigger="trg",
                overall=0.9,
                lora=f"file:///store/lora/{name}/manifest.json",
                evaluation="file:///store/evaluation/e/manifest.json",
                conf={"topics": ["{{ cats }}" if name == "liked" else "cats"], "folder": "x"}
                | {"source": "folder"},
            )
        )
        catalog.promote(name, VERSION, "local")
        for n in range(25):
            generation = str(uuid.uuid4())
            catalog.add_generation(Generation(generation, name, VERSION, "0" * 64, n))
            catalog.add_feedback(generation, f"user-{n}", float(name == "liked" or n < 5))
    return catalog


def test_disliked_lora_is_retrained_once(airflow_db, catalog, dsn, monkeypatch):
    monkeypatch.setenv("LORA_FACTORY_CATALOG", dsn)
    first = Run(load_dag("lora_feedback_retrain").test())
    assert first.state == "success"
    assert first.states("success") == {"watch", "retrain"}
    (run,) = runs_of("lora_factory")
    assert run.run_id.startswith("retrain__disliked__")
    assert run.run_id.endswith(VERSION)
    assert run.conf["parent"] == "file:///store/lora/disliked/manifest.json"
    assert run.conf["incumbent"] == "file:///store/evaluation/e/manifest.json"
    assert run.conf["topics"] == ["cats"]

    again = Run(load_dag("lora_feedback_retrain").test())
    assert again.state == "success"
    assert again.states("skipped") == {"retrain"}
    assert len(runs_of("lora_factory")) == 1


def test_nobody_due_ends_quietly(airflow_db, catalog, dsn, monkeypatch):
    monkeypatch.setenv("LORA_FACTORY_CATALOG", dsn)
    catalog.retire("disliked", "local")
    run = Run(load_dag("lora_feedback_retrain").test())
    assert run.state == "success"
    assert run.states("skipped") == {"watch", "retrain"}


def test_unusable_catalog_fails_at_once(airflow_db, monkeypatch, capsys):
    monkeypatch.setenv("LORA_FACTORY_CATALOG", "nonsense s3cret")
    run = Run(load_dag("lora_feedback_retrain").test())
    assert run.state == "failed"
    assert run.tries("watch") == 1
    output = capsys.readouterr().out
    assert "ConfigurationError" in output
    assert "s3cret" not in output


def runs_of(dag_id: str) -> list[object]:
    from airflow.models.dagrun import DagRun

    return [run for run in DagRun.find(dag_id=dag_id) if run.run_id.startswith("retrain__")]
