"""Ratings in a real catalog → decisions and runs to trigger."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.run import RunConf
from lora_factory.feedback.watch import due_retrains
from lora_factory.store.catalog import Catalog, Generation

pytestmark = pytest.mark.integration
VERSION = "aaaaaaaaaaaa"
PARENT = "file:///store/lora/k/manifest.json"


def today() -> date:
    return datetime.now(UTC).date()


def deploy(catalog: Catalog, name: str, conf: dict[str, Any] | None = None) -> None:
    good = RunConf(topics=("icons",), seeds=("http://127.0.0.1/",), epochs=12, start_from="x")
    model = NewModel(
        name=name,
        version=VERSION,
        sha256="a" * 64,
        base="emoji",
        trigger="icnx",
        overall=0.9,
        lora=PARENT,
        evaluation="file:///store/evaluation/k/manifest.json",
        conf=good.model_dump(mode="json") if conf is None else conf,
    )
    catalog.publish(model)
    catalog.promote(name, VERSION, "local")


def rate(catalog: Catalog, name: str, ratings: list[float]) -> None:
    drawn = Generation(str(uuid.uuid4()), name, VERSION, "0" * 64, 1)
    catalog.add_generation(drawn)
    for number, rating in enumerate(ratings):
        assert catalog.add_feedback(drawn.id, f"user{number}", rating)


@pytest.fixture
def catalog(catalog_dsn: str) -> Catalog:
    return Catalog(catalog_dsn)


def test_bad_ratings_ask_for_an_incremental_run_of_the_same_id(catalog: Catalog) -> None:
    for name, ratings in (("bad", [1.0] * 10 + [0.0] * 10), ("good", [1.0] * 15 + [0.0] * 5)):
        deploy(catalog, name)
        rate(catalog, name, ratings)
    deploy(catalog, "unrated")
    [request] = asyncio.run(asyncio.to_thread(due_retrains, catalog, today()))
    assert request.run_id == f"retrain__bad__{today().isoformat()}__{VERSION}"
    conf = RunConf.model_validate(request.conf)
    assert (conf.name, conf.parent, conf.as_of) == ("bad", PARENT, today())
    assert (conf.topics, conf.epochs, conf.trigger) == (("icons",), 12, "icnx")
    assert conf.start_from is None

    verdicts = {n: catalog.decision(n, VERSION, today()) for n in ("bad", "good", "unrated")}
    assert {n: d.verdict for n, d in verdicts.items() if d} == {
        "bad": "retrain",
        "good": "keep",
        "unrated": "keep",
    }


def test_looking_again_repeats_the_first_answer(catalog: Catalog) -> None:
    deploy(catalog, "icons")
    rate(catalog, "icons", [0.0] * 20)
    first = due_retrains(catalog, today())
    rate(catalog, "icons", [1.0] * 100)
    assert due_retrains(catalog, today()) == first
    tomorrow = today() + timedelta(days=1)
    assert due_retrains(catalog, tomorrow) == [], "the mean has risen to 0.83"


def test_ratings_after_the_day_do_not_count(catalog: Catalog) -> None:
    deploy(catalog, "icons")
    rate(catalog, "icons", [0.0] * 20)
    assert due_retrains(catalog, today() - timedelta(days=1)) == []


def test_a_model_without_usable_conf_is_kept_and_said_so(catalog: Catalog) -> None:
    deploy(catalog, "by-hand", conf={})
    deploy(catalog, "icons")
    for name in ("by-hand", "icons"):
        rate(catalog, name, [0.0] * 20)
    assert [r.name for r in due_retrains(catalog, today())] == ["icons"]
    stored = catalog.decision("by-hand", VERSION, today())
    assert stored is not None
    assert stored.verdict == "keep"
    assert "not usable" in stored.reason


def test_nothing_deployed_means_nothing_due(catalog: Catalog) -> None:
    assert due_retrains(catalog, today()) == []
