"""Real services for integration tests, each started once a session, on loopback or a socket."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from lora_factory.demo.postgres import EmbeddedPostgres
from lora_factory.store.catalog import Catalog


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for the session."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def new_catalog(postgres: EmbeddedPostgres) -> Callable[[], str]:
    """Makes a fresh, migrated database and returns its DSN; for fixtures of any scope."""

    def make() -> str:
        dsn = postgres.dsn(f"catalog_{uuid.uuid4().hex[:12]}")
        Catalog(dsn).migrate()
        return dsn

    return make


@pytest.fixture
def catalog_dsn(new_catalog: Callable[[], str]) -> str:
    """A fresh, migrated catalog for one test."""
    return new_catalog()
