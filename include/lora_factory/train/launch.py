"""Further processes that train the same LoRA, each on a GPU of its own (DDP).

This process is the first of the team: it reads, encodes and writes everything. The others get a
job file (what was fetched already, nothing secret) and do their share of each batch::

    python -m lora_factory.train.follower job.json

They are started here on this machine (``LORA_FACTORY_TRAIN_PROCESSES``). For several machines,
set ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` as torchrun does, give them a
shared ``LORA_FACTORY_SCRATCH``, start the stage with rank 0, and followers with the job file that
its log names: nothing is started here then.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.errors import TrainingError

if TYPE_CHECKING:
    from lora_factory.contracts.specs import TrainSpec
    from lora_factory.contracts.stage import StageContext

log = logging.getLogger(__name__)
JOB = "job.json"
SHARED = {"scratch", "profiles", "threads", "cache_gb"}
"""Settings that a follower needs; none is a secret."""
PR_SET_PDEATHSIG = 1
END_SECONDS = 20.0
TEAM_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def processes(ctx: StageContext) -> int:
    """How many the deployment wants; 0 in its settings: one a GPU."""
    import torch

    return ctx.settings.train_processes or max(1, torch.cuda.device_count())


@contextmanager
def followers(spec: TrainSpec, ctx: StageContext) -> Iterator[None]:
    """This process as the first of a team, and the others started, while the block runs.

    Raises:
        TrainingError: one of the others ended before this one did.
    """
    launched_outside = int(os.environ.get("WORLD_SIZE", "1")) > 1
    count = 1 if launched_outside else processes(ctx)
    if count == 1 and not launched_outside:
        yield
        return
    job = _write_job(spec, ctx)
    log.info("the job of the other processes: %s", job)
    if launched_outside:
        yield
        return
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    os.environ.update(_member(0, count), **place)
    started = [_start(job, _member(rank, count) | place) for rank in range(1, count)]
    try:
        yield
    except RuntimeError as err:  # what torch says when a member of a group is gone
        ended = [each.returncode for each in started if each.poll() is not None]
        if not ended:
            raise
        msg = (
            f"another process of this training ended (status {ended[0]}); its last log lines say "
            "why; run it again to go on from the last checkpoint"
        )
        raise TrainingError(msg) from err
    finally:
        _end(started)
        for name in TEAM_VARIABLES:
            os.environ.pop(name, None)


def _write_job(spec: TrainSpec, ctx: StageContext) -> Path:
    inputs = {
        name: {
            "path": str(found.path),
            "manifest": found.manifest.model_dump(mode="json"),
            "uri": found.uri,
            "sha256": found.sha256,
        }
        for name, found in ctx.inputs.items()
    }
    job: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"),
        "inputs": inputs,
        "scratch": str(ctx.scratch),
        "settings": ctx.settings.model_dump(mode="json", include=SHARED),
    }
    file = ctx.scratch / JOB
    part = file.with_name(f".{JOB}.part")
    part.write_text(json.dumps(job), encoding="utf-8")
    part.replace(file)
    return file


def _member(rank: int, count: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}


def _start(job: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def die_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
        [sys.executable, "-m", "lora_factory.train.follower", str(job)],
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - prctl only, resolved before the fork
    )


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """They end with the training; those that don't are killed."""
    for process in started:
        try:
            process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("process %d of this training did not end; killing it", process.pid)
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
