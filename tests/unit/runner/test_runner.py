"""The runner: keys, reuse, resume, and clear one-line failures through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory import runner
from lora_factory.contracts.base import Counts, StageReport, StageSpec, sha256_json
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import StageContext
from lora_factory.errors import Interrupted, SpecError

ROOT = Path(__file__).parents[3]


class UpperSpec(StageSpec):
    inputs: ClassVar[tuple[str, ...]] = ("raw",)
    raw: str | None = None
    text: str = "a"


def make_stage() -> tuple[types.SimpleNamespace, list[str]]:
    calls: list[str] = []

    def run(spec: UpperSpec, ctx: StageContext) -> StageReport:
        calls.append(spec.text)
        if not (ctx.scratch / "half").exists():
            (ctx.scratch / "half").write_text("done")
            ctx.check_stop()
        (ctx.out / "text").write_text(spec.text.upper())
        return StageReport(counts=Counts(seen=2, kept=1, dropped={"odd": 1}))

    stage = types.SimpleNamespace(
        KIND="raw", VERSION=1, SPEC=UpperSpec, roles=lambda _spec: (), run=run
    )
    return stage, calls


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> tuple[types.SimpleNamespace, list[str]]:
    made = make_stage()
    monkeypatch.setattr(runner, "load_stage", lambda _name: made[0])
    return made


def test_the_second_run_finds_the_artifact(stage: tuple, settings: Settings) -> None:
    first = runner.run_stage("crawl", {"text": "x"}, settings)
    second = runner.run_stage("crawl", {"text": "x"}, settings)
    assert (first.reused, second.reused) == (False, True)
    assert first.manifest_uri == second.manifest_uri
    assert second.counts.dropped == {"odd": 1}
    assert stage[1] == ["x"]


def test_spec_version_and_force_make_new_artifacts(stage: tuple, settings: Settings) -> None:
    uris = {runner.run_stage("crawl", {"text": "x"}, settings).manifest_uri}
    uris.add(runner.run_stage("crawl", {"text": "y"}, settings).manifest_uri)
    uris.add(runner.run_stage("crawl", {"text": "x", "force": True}, settings).manifest_uri)
    stage[0].VERSION = 2
    uris.add(runner.run_stage("crawl", {"text": "x"}, settings).manifest_uri)
    assert len(uris) == 4


def test_an_input_enters_the_key_by_content(stage: tuple, settings: Settings) -> None:
    a = runner.run_stage("crawl", {"text": "a"}, settings)
    b = runner.run_stage("crawl", {"text": "b"}, settings)
    on_a = runner.run_stage("crawl", {"raw": a.manifest_uri}, settings)
    on_b = runner.run_stage("crawl", {"raw": b.manifest_uri}, settings)
    assert on_a.manifest_uri != on_b.manifest_uri
    bare = a.manifest_uri.partition("#")[0]
    assert runner.run_stage("crawl", {"raw": bare}, settings).manifest_uri == on_a.manifest_uri


def test_a_stopped_stage_goes_on_from_its_scratch(stage: tuple, settings: Settings) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        runner.run_stage("crawl", {"text": "x"}, settings, stop=stop)
    assert not list((settings.scratch.parent / "store").rglob("manifest.json"))
    result = runner.run_stage("crawl", {"text": "x"}, settings)
    assert result.counts.kept == 1
    assert not list((settings.scratch / "work").rglob("half"))


def test_a_spec_error_names_the_field() -> None:
    with pytest.raises(SpecError, match="CrawlSpec: topics: Field required"):
        runner.parse_spec(runner.load_stage("crawl"), {"as_of": "2026-01-01"})
    with pytest.raises(SpecError, match="unknown stage 'fly'"):
        runner.load_stage("fly")


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.lists(st.booleans()))))
def test_equal_values_have_equal_hashes_whatever_the_order(value: dict) -> None:
    assert sha256_json(value) == sha256_json(dict(reversed(list(value.items()))))


def command(tmp_path: Path, stage: str, spec: object, **env: str) -> tuple[int, dict, str]:
    (tmp_path / "s.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, "-m", "lora_factory", stage, "--spec", "s.json", "--report", "r.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "include"), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads((tmp_path / "r.json").read_text()), done.stderr


@pytest.mark.parametrize(
    ("spec", "env", "error", "words"),
    [
        ({"topics": [], "as_of": "2026-01-01"}, {}, "SpecError", "topics"),
        ({"topics": ["a"], "as_of": "2026-01-01", "maxpages": 3}, {}, "SpecError", "maxpages"),
        ([], {}, "SpecError", "one JSON object"),
        ({"topics": ["a"], "as_of": "2026-01-01"}, {}, "ConfigurationError", "LORA_FACTORY_STORE"),
        (
            {"topics": ["a"], "as_of": "2026-01-01", "profile": "huge"},
            {"LORA_FACTORY_STORE": "file:///dev/shm/lora-factory-test"},
            "SpecError",
            "choose one of: embedded, standard",
        ),
        (
            {"topics": ["a"], "as_of": "2026-01-01"},
            {"LORA_FACTORY_STORE": "file:///proc/nowhere"},
            "ConfigurationError",
            "/proc/nowhere",
        ),
    ],
)
def test_bad_input_is_one_line_and_permanent(
    tmp_path: Path, spec: object, env: dict[str, str], error: str, words: str
) -> None:
    status, report, log = command(tmp_path, "crawl", spec, **env)
    assert status == 1
    assert report["error"]["type"] == error
    assert words in report["error"]["message"]
    assert "\n" not in report["error"]["message"]
    assert not report["error"]["transient"]
    assert "Traceback" not in log
