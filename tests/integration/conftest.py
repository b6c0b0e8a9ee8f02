"""Real services for integration tests, each started once a session, on loopback or a socket."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg2
import pytest
import uvicorn

from lora_factory.contracts.settings import Settings
from lora_factory.demo.postgres import EmbeddedPostgres
from lora_factory.models.profiles import load_profile
from lora_factory.serve.__main__ import build
from lora_factory.serve.engine import Limits
from lora_factory.store.catalog import Catalog
from serving_app import ADMIN_KEY, Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for the session.

    Not under pytest's own folder: another pytest that starts closes that to other OS users,
    and as root the server runs as one.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lora_factory_pg_") as folder,
        EmbeddedPostgres(Path(folder) / "data") as server,
    ):
        _forget_durability(server.dsn("postgres"))
        yield server


def _forget_durability(dsn: str) -> None:
    """A database for each test is thousands of files, each synced when the server stops."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()


@pytest.fixture(scope="session")
def new_catalog(postgres: EmbeddedPostgres) -> Callable[[], str]:
    """Makes a fresh, migrated database and returns its DSN; for fixtures of any scope."""

    def make() -> str:
        dsn = postgres.dsn(f"catalog_{uuid.uuid4().hex[:12]}")
        Catalog(dsn).migrate()
        return dsn

    return make


@pytest.fixture(scope="session")
def shared_dsn(new_catalog: Callable[[], str]) -> str:
    """One database for all tests that ask for ``catalog_dsn``."""
    return new_catalog()


@pytest.fixture
def catalog_dsn(shared_dsn: str) -> str:
    """An empty, migrated catalog; emptied, not made anew: a database is 300 files."""
    connection = psycopg2.connect(shared_dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE models, deployments, generations, feedback, retrain_decisions, "
            "takedowns, takedown_finds, api_keys, trainings"
        )
    connection.close()
    return shared_dsn


@pytest.fixture(scope="session")
def make_lora(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, float], Path]:
    """Makes real LoRA files for the embedded base: random weights of a seed and a size."""
    from lora_factory.diffusion.families import load_base

    folder = tmp_path_factory.mktemp("loras")
    entry = load_profile("embedded", Settings()).base("emoji", "art")
    base = load_base(entry)

    def make(seed: int, size: float = 0.02) -> Path:
        import torch

        file = folder / f"{seed}_{size}.safetensors"
        if not file.exists():
            weights = base.add_adapter("made", 4, 4.0, ["to_q", "to_k", "to_v"], seed=seed)
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for weight in weights:
                    weight.copy_(size * torch.randn(weight.shape, generator=draw))
            base.save_adapter("made", file, {})
            base.drop_adapter("made")
        return file

    return make


@pytest.fixture(scope="module")
def server(
    new_catalog: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The serving app with the embedded base, one for a test module."""
    data, dsn = tmp_path_factory.mktemp("serving"), new_catalog()
    settings = Settings.model_validate({
        "catalog": dsn,
        "serve_token": ADMIN_KEY,
        "serve_public": 100_000,
        "threads": 1,
    })
    app = build("embedded", None, data, settings, limits=Limits(adapter_bytes=600_000))
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(
        target=uvicorn_server.run, kwargs={"sockets": [listener]}, daemon=True
    )
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            deadline = time.monotonic() + 120
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline, "the serving app did not get ready"
                time.sleep(0.1)
            yield Server(url, dsn, data, client)
    finally:
        uvicorn_server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
