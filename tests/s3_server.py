"""A real S3 server (SeaweedFS) from a wheel, which keeps its data when it is killed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS, SECRET = "tests", "secret-of-the-tests"
PORTS = ("master", "volume", "filer", "s3")


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class S3Server:
    """One process with all of its parts; the same ports and data after :meth:`kill`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        http, grpc = free_ports(len(PORTS)), free_ports(len(PORTS))
        self._ports = dict(zip(PORTS, zip(http, grpc, strict=True), strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3'][0]}"
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """What boto3's chain needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> S3Server:
        """Start it and wait until it answers."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        options = {
            "dir": str(self.folder / "data"), "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
            "s3": "true", "s3.config": str(self.folder / "s3.json"),
            "s3.autoCreateBucket": "false", "s3.port.iceberg": "0", "s3.port.lance": "0",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": "64", "master.volumePreallocate": "false",
            "volume.max": "8", "volume.preStopSeconds": "0",
        }  # fmt: skip
        for name, (http, grpc) in self._ports.items():
            options |= {f"{name}.port": str(http), f"{name}.port.grpc": str(grpc)}
        with (self.folder / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary(), "-logtostderr", "server", *(f"-{k}={v}" for k, v in options.items())],
                stdout=log,
                stderr=log,
            )
        self._wait()
        return self

    def _wait(self) -> None:
        """Until it takes an object: the gateway answers before there is room to write."""
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=10),
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                if "factory" not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket="factory")
                client.put_object(Bucket="factory", Key=".ready", Body=b"")
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, and remove its data."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def binary() -> str:
    """The server's program, beside this interpreter."""
    return str(Path(sys.executable).with_name("weed"))
