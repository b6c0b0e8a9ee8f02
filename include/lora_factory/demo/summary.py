"""What a finished run brought: collected through public doors, printed, and kept as JSON."""

from __future__ import annotations

import base64
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from lora_factory.contracts.evaluation import DeployReport, EvaluationReport
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.demo.airflow_api import AirflowApi
from lora_factory.demo.watch import say
from lora_factory.store.artifacts import open_store

STAGE_TASKS = ("crawl", "sanitize", "label", "tune", "train", "evaluate", "deploy")


def collect(
    api: AirflowApi, dag_id: str, run_id: str, settings: Settings, out: Path
) -> dict[str, Any]:
    """Gather a run's results and copy the files a person wants to see into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    run = api.run(dag_id, run_id)
    tasks = api.tasks(dag_id, run_id)
    artifacts: dict[str, str] = {}
    stages: dict[str, float] = {}
    for task in sorted(tasks, key=lambda task: task["start_date"] or ""):
        stage = task["task_id"].rpartition(".")[2]
        if task["state"] != "success" or stage not in STAGE_TASKS:
            continue
        result = api.xcom(dag_id, run_id, task["task_id"])
        stages[task["task_id"]] = result["seconds"]
        artifacts[stage] = result["manifest_uri"]
    wall = _seconds(run)
    planned = api.xcom(dag_id, run_id, "crawl_plan", "plan")
    children = sum(stages.values()) + (planned["seconds"] if planned else 0.0)
    summary: dict[str, Any] = {
        "state": run["state"],
        "run_id": run_id,
        "seconds": {
            "run": round(wall, 1),
            "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
            "airflow_share": round(max(wall - children, 0) / wall, 3) if wall else None,
        },
        "artifacts": artifacts,
    }
    store = open_store(settings)
    if "evaluate" in artifacts:
        summary |= _evaluation(store.fetch(artifacts["evaluate"]), out)
    if "train" in artifacts:
        lora = store.fetch(artifacts["train"])
        summary["lora"] = _copy(lora.path / "lora.safetensors", out)
        summary["loss_plot"] = _copy(lora.path / "loss.png", out)
    if "deploy" in artifacts:
        stats = store.read_manifest(artifacts["deploy"]).stats
        release = DeployReport.model_validate(stats)
        summary |= {
            "endpoint": release.endpoint,
            "adapter": release.name,
            "version": release.version,
            "trigger": release.trigger,
        }
    return summary


def generate_one(summary: dict[str, Any], out: Path) -> None:
    """Ask the endpoint for one picture, as a user would, and keep it."""
    prompt = f"red apple, {summary['trigger']} style"
    body = {"prompt": prompt, "adapter": summary["adapter"], "seed": 7}
    answer = httpx.post(summary["endpoint"], json=body, timeout=120.0)
    answer.raise_for_status()
    picture = out / "generated.png"
    picture.write_bytes(base64.b64decode(answer.json()["image"]))
    summary["generated"] = {"prompt": prompt, "image": str(picture)}


def _score(metric: dict[str, Any]) -> str:
    if metric["score"] is not None:
        return f"{metric['score']:.3f}"
    return "" if metric["note"].startswith("abstains") else "no scale"


def show(summary: dict[str, Any]) -> None:
    """Print the summary for a person."""
    say()
    if "verdict" in summary:
        low, threshold = summary["overall_low"], summary["threshold"]
        say(f"verdict    {summary['verdict']}: overall {summary['overall']:.3f}, needs {threshold}")
        say(f"           (95% interval from {low:.3f}; not calibrated on people)")
        for name, metric in summary["scores"].items():
            say(f"  {name:<11} {_score(metric):<9} {metric['note']}".rstrip())
    for key in ("grid", "report", "lora", "loss_plot", "endpoint"):
        if summary.get(key):
            say(f"{key:<10} {summary[key]}")
    if "generated" in summary:
        say(f"picture    {summary['generated']['image']}  ({summary['generated']['prompt']})")
    stages = ", ".join(
        f"{name.rpartition('.')[2]} {seconds:.0f}"
        for name, seconds in summary["seconds"]["stages"].items()
    )
    say(f"seconds    run {summary['seconds']['run']:.0f} ({stages})")
    say(f"summary    {summary['summary']}")
    say(f"Airflow    {summary['airflow']['url']}  user {summary['airflow']['user']}")
    say(f"           password {summary['airflow']['password']}")


def write(summary: dict[str, Any], file: Path) -> None:
    """Keep the summary."""
    file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _evaluation(artifact: LocalArtifact, out: Path) -> dict[str, Any]:
    report = EvaluationReport.model_validate(artifact.manifest.stats)
    return {
        "verdict": report.verdict,
        "overall": report.overall,
        "overall_low": report.overall_low,
        "threshold": report.threshold,
        "scores": {metric.name: metric.model_dump(mode="json") for metric in report.metrics},
        "gates": [gate.model_dump(mode="json") for gate in report.gates],
        "grid": _copy(artifact.path / "grid.png", out),
        "report": _copy(artifact.path / "report.html", out),
    }


def _copy(file: Path, out: Path) -> str | None:
    if not file.is_file():
        return None
    return str(shutil.copyfile(file, out / file.name))


def _seconds(run: dict[str, Any]) -> float:
    if not run["start_date"] or not run["end_date"]:
        return 0.0
    start, end = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return (end - start).total_seconds()
