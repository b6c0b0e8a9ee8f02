"""A lease is exclusive, and dies with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_factory.errors import LeaseHeld
from lora_factory.store.lease import lease

HOLDER = """
import sys, time
from pathlib import Path
from lora_factory.store.lease import lease
with lease(Path(sys.argv[1]), "k"):
    sys.stdout.write("held\\n"); sys.stdout.flush()
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_a_dead_one_forgotten(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "include")}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, env=env
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LeaseHeld, match="artifact k"), lease(tmp_path, "k", wait=0.3):
            pass
        with lease(tmp_path, "other", wait=0.3):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lease(tmp_path, "k", wait=5):
        pass
