"""Tune and train through the runner, in processes of their own, on the embedded base."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from lora_factory.__main__ import main
from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.manifest import Kind, Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.contracts.training import TrainPlan, TrainReport, TuneReport
from lora_factory.errors import ModelError
from lora_factory.models.profiles import ASSETS, PACKAGE
from lora_factory.runner import run_stage
from lora_factory.store.artifacts import open_store
from lora_factory.store.catalog import Catalog
from training_data import make_dataset, make_plan, plan_artifact

pytestmark = pytest.mark.integration


def commit(settings: Settings, made: LocalArtifact, kind: Kind) -> str:
    draft = made.manifest.model_copy(update={"kind": kind})
    return open_store(settings).commit(made.path, draft)


def manifest(settings: Settings, uri: str) -> Manifest:
    return open_store(settings).read_manifest(uri)


@pytest.fixture
def dataset(settings: Settings, tmp_path: Path) -> str:
    return commit(settings, make_dataset(tmp_path / "d", train=10, validation=4), "dataset")


def test_a_dataset_becomes_a_plan_and_a_lora(settings: Settings, dataset: str) -> None:
    spec = {"dataset": dataset, "epochs": 1, "max_minutes": 0.05}
    tuned = run_stage("tune", spec, settings)
    plan = TuneReport.model_validate(manifest(settings, tuned.manifest_uri).stats).plan
    fields = set(TrainPlan.model_fields) - {"measurements", "reasons"}
    told = {"base", "rank", "alpha", "target_modules", "learning_rate", "batch_size", "steps"}
    assert told <= plan.reasons.keys() <= fields
    assert "cut to the 0.05 minutes allowed" in plan.reasons["steps"]
    assert plan.rank == 16  # the base's limit
    assert 0.3 < plan.measurements.semantic_diversity < 1
    assert 0 < plan.measurements.seconds_per_image < 5
    trained = run_stage("train", {"dataset": dataset, "plan": tuned.manifest_uri}, settings)
    found = manifest(settings, trained.manifest_uri)
    report = TrainReport.model_validate(found.stats)
    assert report.steps == plan.steps
    assert {file.path for file in found.files} == {
        *("lora.safetensors", "training.jsonl", "loss.png"),
        *report.checkpoints,
        *report.samples,
        *("samples/prompts.json", "tensorboard/events.out.tfevents.0.training"),
    }
    assert report.samples
    again = run_stage("train", {"dataset": dataset, "plan": tuned.manifest_uri}, settings)
    assert again.reused


def test_advice_changes_the_plan(settings: Settings, dataset: str, tmp_path: Path) -> None:
    from training_data import artifact

    folder = tmp_path / "evaluation"
    folder.mkdir()
    asked = Advice(rank_scale=2, learning_rate_scale=0.5, steps_scale=1.5, weight_decay=0.2)
    (folder / "advice.json").write_text(asked.model_dump_json())
    advice = commit(settings, artifact(folder, "evaluation"), "evaluation")
    spec = {"dataset": dataset, "epochs": 1}
    plain, advised = (
        TuneReport.model_validate(
            manifest(settings, run_stage("tune", spec | more, settings).manifest_uri).stats
        )
        for more in ({}, {"advice": advice})
    )
    assert advised.plan.rank == 2 * plain.plan.rank == 32  # above where this base starts
    assert advised.plan.learning_rate == pytest.approx(plain.plan.learning_rate / 2, rel=0.01)
    assert advised.plan.steps == round(1.5 * plain.plan.steps)
    assert (plain.plan.weight_decay, advised.plan.weight_decay) == (0.01, 0.2)
    assert (plain.followed_advice, len(advised.followed_advice)) == ((), 4)
    assert advised.plan.advice == asked


def test_a_base_without_weights_stops_at_tuning(
    settings: Settings, dataset: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for part in (ASSETS / "emoji-base").iterdir():
        if part.name != "unet":
            (base / part.name).symlink_to(part)
    (base / "unet").mkdir()
    (base / "unet/config.json").write_text((ASSETS / "emoji-base/unet/config.json").read_text())
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    text = (PACKAGE / "profiles/embedded.toml").read_text()
    (profiles / "hollow.toml").write_text(text.replace('"emoji-base"', f'"{base}"'))
    hollow = settings.model_copy(update={"profiles": profiles})
    with pytest.raises(ModelError, match="unet") as caught:
        run_stage("tune", {"dataset": dataset, "profile": "hollow"}, hollow)
    assert "\n" not in str(caught.value)


@contextmanager
def child(settings: Settings, spec: dict[str, str], work: Path) -> Iterator[subprocess.Popen[str]]:
    """``python -m lora_factory train``, as Airflow starts it."""
    (work / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "lora_factory", "train"]
    command += ["--spec", str(work / "spec.json"), "--report", str(work / "report.json")]
    environment = os.environ | {
        "PYTHONPATH": str(PACKAGE.parent),
        "LORA_FACTORY_STORE": settings.store,
        "LORA_FACTORY_SCRATCH": str(settings.scratch),
        "LORA_FACTORY_THREADS": "1",
        "LORA_FACTORY_CATALOG": settings.catalog.get_secret_value(),
        "LORA_FACTORY_RUN_ID": settings.run_id,
    }
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"{words!r} not in: {''.join(seen)}")


def test_sigterm_leaves_a_checkpoint_and_the_next_run_goes_on(
    settings: Settings, dataset: str, tmp_path: Path
) -> None:
    plan = commit(settings, plan_artifact(tmp_path / "p", make_plan(steps=10_000)), "plan")
    spec = {"dataset": dataset, "plan": plan}
    for words in ("training 1/", "going on from step"):
        with child(settings, spec, tmp_path) as process:
            wait_for(process, words)
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert process.wait(timeout=60) == 75
            assert time.monotonic() - asked < 4.0
        error = json.loads((tmp_path / "report.json").read_text())["error"]
        assert (error["type"], error["transient"]) == ("Interrupted", True)
        assert list(settings.scratch.glob("work/train/*/scratch/checkpoint-*.safetensors"))
    assert not list((tmp_path / "store").glob("lora/*/manifest.json"))


def test_a_person_ends_a_training_in_order(
    settings: Settings,
    dataset: str,
    tmp_path: Path,
    catalog_dsn: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORA_FACTORY_CATALOG", catalog_dsn)
    run_id = "manual__2026-01-31T12:00:00+00:00"
    told = settings.model_copy(update={"catalog": SecretStr(catalog_dsn), "run_id": run_id})
    plan = commit(settings, plan_artifact(tmp_path / "p", make_plan(steps=10_000)), "plan")
    assert main(["stop", run_id]) == 1  # nothing is under way
    with child(told, {"dataset": dataset, "plan": plan}, tmp_path) as process:
        wait_for(process, "training 1/")
        while not Catalog(catalog_dsn).trainings():
            time.sleep(0.1)
        assert main(["stop", "another"]) == 1
        assert main(["stop", run_id, "--by", "kim"]) == 0
        assert process.wait(timeout=120) == 0
    assert "asked to stop by kim" in capsys.readouterr().out
    result = json.loads((tmp_path / "report.json").read_text())
    found = manifest(settings, result["manifest_uri"])
    report = TrainReport.model_validate(found.stats)
    assert report.stopped_by == "request"
    assert [action.what for action in report.actions] == ["request"]
    assert 0 < report.steps < 10_000
    assert "lora.safetensors" in {file.path for file in found.files}
    assert Catalog(catalog_dsn).trainings() == []
    assert Catalog(catalog_dsn).stop_asked(run_id)
    assert not Catalog(catalog_dsn).stop_asked("another")


@pytest.mark.slow
def test_a_catalog_that_is_away_stops_no_training(
    settings: Settings, dataset: str, tmp_path: Path, free_port: int
) -> None:
    away = SecretStr(f"postgresql://nobody@127.0.0.1:{free_port}/none")
    told = settings.model_copy(update={"catalog": away, "run_id": "r"})
    plan = commit(settings, plan_artifact(tmp_path / "p", make_plan(steps=3)), "plan")
    with child(told, {"dataset": dataset, "plan": plan}, tmp_path) as process:
        wait_for(process, "requests to stop can't be seen now")
        assert process.wait(timeout=120) == 0
