"""Real small child processes: reports, log lines, secrets, and every way to die."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lora_factory import errors
from lora_factory_airflow.child import LOG_LINE, StageProcess, child_environment

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/small_child.py "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LORA_FACTORY_PYTHON", str(script))
    return script


def stage(play: str, **spec: Any) -> StageProcess:
    return StageProcess("crawl", {"play": play, **spec}, {"LORA_FACTORY_CATALOG": "s3cret"})


def until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_result_and_log_lines(python, caplog):
    caplog.set_level(logging.INFO)
    result = stage("succeed").run()
    assert result.sha256 == "0" * 64
    assert 0.01 < result.seconds < 30
    lines = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    assert ("lora_factory.small.part", "WARNING", "äöü: a: b") in lines
    assert ("lora_factory_airflow.child", "INFO", "Traceback (most recent call last):") in lines
    assert ("lora_factory_airflow.child", "INFO", "from stdout") in lines
    assert not any("hidden" in line for _, _, line in lines)
    first = lines[0][2].split()
    assert int(first[3]) == os.getpgid(0)  # Airflow signals the task's whole group
    assert first[5] == "0o600"


def test_environment_is_what_a_stage_needs(python, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "k")
    monkeypatch.setenv("AIRFLOW_CONN_X", "c")
    monkeypatch.setenv("GITHUB_TOKEN", "t")
    monkeypatch.setenv("LORA_FACTORY_STORE", "file:///s")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    out = tmp_path / "environment"
    process = stage("environment", out=str(out))
    process.run()
    seen = json.loads(out.read_text())
    assert seen["LORA_FACTORY_CATALOG"] == "s3cret"
    assert seen["LORA_FACTORY_STORE"] == "file:///s"
    assert seen["OMP_NUM_THREADS"] == "3"
    assert not {name for name in seen if "AIRFLOW" in name or "TOKEN" in name}
    assert "s3cret" not in json.dumps(process.spec)


@pytest.mark.parametrize("name", ["DataError", "ServiceUnavailable", "LeaseHeld"])
def test_reported_errors_keep_their_class(python, name):
    kind = getattr(errors, name)
    error = {"type": name, "message": "two\nlines", "transient": kind.transient}
    with pytest.raises(kind, match=r"^two lines$"):
        stage("error", error=error).run()


@pytest.mark.parametrize("name", ["KeyError", "FactoryErrorX", "", "log", None])
def test_unknown_error_classes_keep_their_branch(python, name):
    for transient, kind in ((True, errors.TransientError), (False, errors.PermanentError)):
        with pytest.raises(kind):
            stage("error", error={"type": name, "message": "m", "transient": transient}).run()


def test_crash_without_report_is_permanent(python, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(errors.PermanentError, match="status 1 and no report"):
        stage("crash").run()
    assert "RuntimeError: boom" in caplog.text


def test_killed_child_may_be_tried_again(python):
    with pytest.raises(errors.Interrupted, match="SIGKILL"):
        stage("killed").run()


def test_missing_interpreter(monkeypatch):
    monkeypatch.setenv("LORA_FACTORY_PYTHON", "/nowhere/python")
    with pytest.raises(errors.ConfigurationError, match="LORA_FACTORY_PYTHON"):
        stage("succeed").run()


def test_an_interpreter_of_its_own(python, monkeypatch):
    process = stage("succeed")
    process.python = "LORA_FACTORY_CLOUD_PYTHON"
    assert process.run().sha256 == "0" * 64  # not set: the usual one
    monkeypatch.setenv("LORA_FACTORY_CLOUD_PYTHON", "/nowhere/python")
    with pytest.raises(errors.ConfigurationError, match="correct LORA_FACTORY_CLOUD_PYTHON"):
        process.run()


def test_a_grandchild_does_not_hold_the_task(python, tmp_path):
    out = tmp_path / "pid"
    started = time.monotonic()
    stage("leave_grandchild", out=str(out)).run()
    assert time.monotonic() - started < 15
    os.kill(int(out.read_text()), signal.SIGKILL)


def test_stop_lets_the_child_keep_its_progress(python, tmp_path):
    out = tmp_path / "progress"
    process = stage("checkpoint", out=str(out))
    stopper = threading.Thread(target=lambda: (until(out.exists), process.stop()))
    stopper.start()
    with pytest.raises(errors.Interrupted, match="asked to stop"):
        process.run()
    stopper.join()
    assert out.read_text() == "checkpoint after 1 SIGTERM"


def test_stop_kills_a_child_that_will_not_end(python, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_factory_airflow.child.GRACE_SECONDS", 0.3)
    out = tmp_path / "pid"
    process = stage("stubborn", out=str(out))
    stopper = threading.Thread(target=lambda: (until(out.exists), process.stop()))
    stopper.start()
    with pytest.raises(errors.Interrupted, match="stopped before it could report"):
        process.run()
    stopper.join()
    assert not alive(int(out.read_text()))


def test_an_exception_in_the_task_ends_the_child(python, tmp_path):
    """As Airflow's task timeout does: an alarm raises in the middle of the wait."""
    out = tmp_path / "progress"

    def alarm(*_: object) -> None:
        raise TimeoutError

    def ring() -> None:
        until(lambda: out.exists() and out.read_text())
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, alarm)
    clock = threading.Thread(target=ring)
    clock.start()
    try:
        with pytest.raises(TimeoutError):
            stage("checkpoint", out=str(out)).run()
    finally:
        clock.join()
        signal.signal(signal.SIGALRM, before)
    assert out.read_text() == "checkpoint after 1 SIGTERM"


TASK = """
import signal, sys
from lora_factory_airflow.child import StageProcess
process = StageProcess("crawl", {"play": sys.argv[1], "out": sys.argv[2]}, {})
signal.signal(signal.SIGTERM, lambda *_: process.stop())
try:
    process.run()
except Exception as err:
    print(type(err).__name__, flush=True)
"""


def task(play: str, out: Path) -> subprocess.Popen[str]:
    """A process that does what Airflow's task runner does around an operator."""
    path = os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")])
    return subprocess.Popen(
        [sys.executable, "-c", TASK, play, str(out)],
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_to_the_task_reaches_the_child(python, tmp_path, whole_group):
    """To the task alone (worker shutdown) and to its group (Airflow 3.3 kills by group)."""
    out = tmp_path / "progress"
    parent = task("checkpoint", out)
    until(lambda: out.exists() and out.read_text())
    child = int(out.read_text())
    (os.killpg if whole_group else os.kill)(parent.pid, signal.SIGTERM)
    assert parent.communicate(timeout=10)[0] == "Interrupted\n"
    assert out.read_text().startswith("checkpoint after")
    assert not alive(child)


def test_the_child_dies_with_its_parent(python, tmp_path):
    """Even one that ignores SIGTERM, when the task is killed without a warning."""
    out = tmp_path / "pid"
    parent = task("stubborn", out)
    until(lambda: out.exists() and out.read_text())
    child = int(out.read_text())
    assert alive(child)
    parent.kill()
    parent.communicate(timeout=10)
    until(lambda: not alive(child), 3)


def test_variables_by_name():
    given = {"AWS_REGION": "a", "https_proxy": "p", "MY_AWS": "x", "SQL_ALCHEMY_CONN": "y"}
    assert child_environment(given) == {"AWS_REGION": "a", "https_proxy": "p"}
    assert child_environment(given, {"K": "v"})["K"] == "v"


@pytest.mark.parametrize("line", ["INFO: no logger", "NOTICE a: b", "INFO a b: c", ""])
def test_other_lines_are_no_log_lines(line):
    assert LOG_LINE.match(line) is None
