"""Start, find again and stop the demo's processes, by the pids it wrote down itself."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lora_factory.errors import ServiceUnavailable

log = logging.getLogger(__name__)


class Processes:
    """The demo's child processes, each leader of a process group of its own.

    ``folder/pids.json`` says what runs (pid and start time, so that a reused pid is never
    mistaken for ours); ``folder/<name>.log`` is what it said.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = folder / "pids.json"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start ``argv`` unless it runs already."""
        if self.alive(name):
            return
        with self.log_file(name).open("ab") as out:
            child = subprocess.Popen(  # noqa: S603 - our own argv
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = child
        self._write({**self._read(), name: [child.pid, _started(child.pid)]})

    def alive(self, name: str) -> bool:
        """Whether the process that was started under this name still runs."""
        if name in self._children:
            return self._children[name].poll() is None
        pid, started = self._read().get(name, (0, 0))
        return pid > 0 and _started(pid) == started

    def log_file(self, name: str) -> Path:
        """Where ``name`` writes."""
        return self._folder / f"{name}.log"

    def wait(self, name: str, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until ``ready()``.

        Raises:
            ServiceUnavailable: the process ended, or was not ready in time; names its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive(name):
                msg = f"{what} ended while starting; see {self.log_file(name)}"
                raise ServiceUnavailable(msg)
            if time.monotonic() > deadline:
                msg = f"{what} was not ready after {seconds:.0f} s; see {self.log_file(name)}"
                raise ServiceUnavailable(msg)
            time.sleep(0.3)

    def stop_all(self, seconds: float = 15.0) -> None:
        """SIGTERM to every group, SIGKILL to what is left after ``seconds``."""
        known = self._read()
        alive = {name: int(known[name][0]) for name in known if self.alive(name)}
        for pid in alive.values():
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(self.alive(name) for name in alive) and time.monotonic() < deadline:
            time.sleep(0.2)
        for name, pid in alive.items():
            if self.alive(name):
                log.warning("%s did not end in %.0f s; killing it", name, seconds)
            _signal(pid, signal.SIGKILL)  # the group: also children that outlived their parent
        for child in self._children.values():
            child.wait()
        self._children.clear()
        self._write({})

    def _read(self) -> dict[str, list[int]]:
        try:
            return dict(json.loads(self._file.read_text()))
        except (OSError, ValueError):
            return {}

    def _write(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._file.write_text(json.dumps(pids))


def free_ports(count: int, saved: Path) -> list[int]:
    """Loopback ports: those of the last time where they are still free, new ones else.

    The same ports again keep the seeds' URLs, and with them every artifact key.
    """
    try:
        wanted = [int(port) for port in json.loads(saved.read_text())][:count]
    except (OSError, ValueError):
        wanted = []
    wanted += [0] * (count - len(wanted))
    sockets = []
    try:
        for port in wanted:
            probe = socket.socket()
            sockets.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.bind(("127.0.0.1", 0))
        ports = [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
    saved.write_text(json.dumps(ports))
    return ports


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _started(pid: int) -> int:
    """Kernel start time of a process in clock ticks (proc(5), field 22); -1 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])
