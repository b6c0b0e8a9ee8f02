"""Runs one stage in a child process: spec file in, log lines and a report file out.

    $LORA_FACTORY_PYTHON -m lora_factory <stage> --spec spec.json --report report.json

The child stays in the task's process group, so that a signal to the task reaches it, and
asks the kernel for SIGKILL when its parent dies, so that no survivor of a killed task holds
memory, a GPU or a lease. Airflow gives a task five seconds between SIGTERM and SIGKILL;
:meth:`StageProcess.stop` passes the first on and waits a little less than that.

Imports no Airflow: errors are the factory's own (``lora_factory.errors``).
"""

from __future__ import annotations

import contextvars
import ctypes
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from lora_factory import errors
from lora_factory.contracts.manifest import StageResult
from lora_factory.errors import FactoryError, Interrupted, PermanentError, TransientError

log = logging.getLogger(__name__)

GRACE_SECONDS = 4.5  # Airflow's own SIGKILL follows 5 s after its SIGTERM
LOG_LINE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) ([\w.]+): (.*)$")
PR_SET_PDEATHSIG = 1
PYTHON, CLOUD_PYTHON = "LORA_FACTORY_PYTHON", "LORA_FACTORY_CLOUD_PYTHON"
# What a stage may see of the task's environment. Airflow's own variables (database URL,
# keys, connections) stay out: the child handles hostile bytes and needs none of them.
INHERITED = re.compile(
    r"""^(LORA_FACTORY_\w+ | PATH | HOME | USER | TMPDIR | TZ | LANG | LC_\w+ | PYTHON\w+
        | LD_LIBRARY_PATH | OMP_\w+ | MKL_\w+ | CUDA_\w+ | NVIDIA_\w+ | NCCL_\w+ | PYTORCH_\w+
        | HF_\w+ | TRANSFORMERS_\w+ | XDG_\w+ | AWS_\w+ | GOOGLE_\w+ | AZURE_\w+
        | SSL_CERT_\w+ | REQUESTS_CA_BUNDLE | (?:HTTPS?|NO)_PROXY | COVERAGE_\w+)$""",
    re.VERBOSE | re.IGNORECASE,
)


class StageProcess:
    """One run of one stage.

    Args:
        stage: stage name.
        spec: its spec, as JSON-ready values.
        secrets: variables added to the child's environment; never written to the spec.

    ``python`` is the variable that names the interpreter, where it is set.
    """

    def __init__(self, stage: str, spec: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        self.stage = stage
        self.spec = spec
        self.secrets = secrets
        self.python = PYTHON
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> StageResult:
        """Run the stage to its end; ``seconds`` of the result is the child's whole wall time.

        Raises:
            FactoryError: what the stage reported, under its own class.
            Interrupted: the child was stopped or killed before it could report.
            PermanentError: the child crashed without a report.
        """
        with tempfile.TemporaryDirectory(prefix="lora-factory-") as folder:
            spec, report = Path(folder, "spec.json"), Path(folder, "report.json")
            spec.touch(mode=0o600)
            spec.write_text(json.dumps(self.spec), encoding="utf-8")
            started = time.monotonic()
            status = self._run(spec, report)
            seconds = round(time.monotonic() - started, 3)
            return self._result(report, status).model_copy(update={"seconds": seconds})

    def stop(self) -> None:
        """SIGTERM, at most 4.5 s for a checkpoint, then SIGKILL. Safe in a signal handler.

        Does not reap the child: :meth:`run`, which this may have interrupted, does.
        """
        process = self._process
        if process is None or _ended(process):
            return
        self.stopped = True
        log.info(
            "stopping %s: SIGTERM, then %.1f s to keep its progress", self.stage, GRACE_SECONDS
        )
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while not _ended(process):
            if time.monotonic() > deadline:
                log.warning("%s did not stop in %.1f s: SIGKILL", self.stage, GRACE_SECONDS)
                process.kill()
                return
            time.sleep(0.02)

    def _run(self, spec: Path, report: Path) -> int:
        python = os.environ.get(self.python) or os.environ.get(PYTHON) or sys.executable
        arguments = ["-m", "lora_factory", self.stage, "--spec", str(spec), "--report", str(report)]
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's interpreter, no shell
                [python, *arguments],
                env=child_environment(os.environ, self.secrets),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - prctl only, resolved before fork
            )
        except OSError as err:
            msg = f"can't start {python}: {err.strerror}; correct {self.python}"
            raise errors.ConfigurationError(msg) from err
        self._process = process
        # A thread reads the lines, so that a grandchild holding the pipe can't outlast the child.
        # The task's context goes with it, so that its lines carry the task's ids.
        context = contextvars.copy_context()
        reader = threading.Thread(
            target=context.run, args=(pass_on_lines, process.stdout), daemon=True
        )
        reader.start()
        try:
            return process.wait()
        finally:
            self.stop()  # an exception (task timeout) ends the wait before the child
            process.wait()
            reader.join(timeout=2)

    def _result(self, report: Path, status: int) -> StageResult:
        data = _read_report(report)
        if data is not None and "error" in data:
            raise _error(self.stage, data["error"])
        if status == 0 and data is not None:
            try:
                return StageResult.model_validate(data)
            except ValidationError as err:
                msg = f"{self.stage} wrote a report of the wrong shape: {err.error_count()} errors"
                raise PermanentError(msg) from err
        if self.stopped or status == -signal.SIGTERM:
            msg = f"{self.stage} was stopped before it could report; run it again to go on"
            raise Interrupted(msg)
        if status < 0:
            name = signal.Signals(-status).name
            msg = f"{self.stage} was killed by {name} (out of memory?); run it again to go on"
            raise Interrupted(msg)
        msg = f"{self.stage} ended with status {status} and no report; its last log lines say why"
        raise PermanentError(msg)


def child_environment(
    environ: Mapping[str, str], secrets: Mapping[str, str] = {}
) -> dict[str, str]:
    """The part of ``environ`` a stage may see, plus ``secrets``."""
    return {k: v for k, v in environ.items() if INHERITED.match(k)} | dict(secrets)


def pass_on_lines(stream: IO[bytes]) -> None:
    """Log each line under the level and logger it names; others (tracebacks) as they are."""
    with stream:
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            found = LOG_LINE.match(line)
            if found:
                level = logging.getLevelNamesMapping()[found[1]]
                logging.getLogger(found[2]).log(level, "%s", found[3])
            elif line:
                log.info("%s", line)


def _die_with_parent() -> Callable[[], None]:
    """A function for the forked child: SIGKILL when the thread that forked it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask_kernel


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended, without reaping it (``Popen.wait`` may be under way)."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _read_report(report: Path) -> dict[str, Any] | None:
    """The report's object, or None when there is none, or a half-written one."""
    try:
        data = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _error(stage: str, data: Mapping[str, Any]) -> FactoryError:
    """The error a child reported, under its own class where that is the factory's."""
    message = " ".join(str(data.get("message", "")).split()) or f"{stage} failed without a message"
    kind = getattr(errors, str(data.get("type", "")), None)
    if isinstance(kind, type) and issubclass(kind, FactoryError):
        return kind(message)
    return (TransientError if data.get("transient") else PermanentError)(message)
