"""A run's choice of knowledge graphs reaches the crawl and its plan."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lora_factory.contracts.expansion import OFFLINE, ExpansionSpec
from lora_factory.contracts.run import RunConf
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import CrawlSpec, PlanSpec
from lora_factory.errors import SpecError
from lora_factory_airflow.params import run_params
from lora_factory_airflow.run_plan import make_plan, parse_conf


def planned(folder: Path, **conf: Any) -> ExpansionSpec:
    settings = Settings(store=(folder / "store").as_uri(), scratch=folder)
    run = RunConf.model_validate({"topics": ["birds"], "source": "wikimedia", **conf})
    specs = make_plan(run, settings, date(2026, 11, 24)).specs
    crawl, plan = CrawlSpec.model_validate(specs["crawl"]), specs["crawl_plan"]
    assert crawl.expansion == PlanSpec.model_validate(plan).expansion
    return crawl.expansion


def test_the_conf_reaches_the_spec(tmp_path: Path) -> None:
    assert planned(tmp_path) == ExpansionSpec()
    asked = planned(
        tmp_path,
        graphs=["conceptnet", "wordnet"],
        graph_depth=2,
        graph_fan_out=5,
        languages=["de", "en"],
    )
    assert asked == ExpansionSpec(
        graphs=("conceptnet", "wordnet"), depth=2, fan_out=5, languages=("de", "en")
    )
    assert planned(tmp_path, graphs=[], languages=[]) == ExpansionSpec(graphs=())
    assert len(planned(tmp_path, languages=[f"x{n}" for n in range(20)]).languages) == 8


def test_the_form_offers_graphs_that_make_no_request() -> None:
    form = run_params()
    assert form["graphs"].value == list(OFFLINE)
    assert parse_conf({}, {"topics": ["b"], "source": "wikimedia"}).graphs == OFFLINE
    with pytest.raises(SpecError, match="graphs"):
        parse_conf({"graphs": ["google"]}, {"topics": ["b"], "source": "wikimedia"})
