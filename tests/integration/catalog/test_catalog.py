"""The catalog against a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from lora_factory.contracts.registry import NewModel, RetrainDecision
from lora_factory.demo.postgres import EmbeddedPostgres
from lora_factory.errors import ConfigurationError, ServiceUnavailable, SpecError
from lora_factory.store.catalog import MIGRATION_LOCK, Catalog, Generation

pytestmark = pytest.mark.integration
A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
TARGET = "local"


def new_model(version: str = A, **changes: Any) -> NewModel:
    values: dict[str, Any] = {
        "name": "icons",
        "version": version,
        "sha256": version[0] * 64,
        "base": "emoji",
        "trigger": "icnx",
        "overall": 0.9,
        "lora": "file:///store/lora/k/manifest.json",
        "evaluation": "file:///store/evaluation/k/manifest.json",
        "conf": {"topics": ["icons"], "name": "x'; DROP TABLE models; --"},
    }
    return NewModel.model_validate(values | changes)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that the server's OS user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "pg"


@pytest.fixture
def catalog(catalog_dsn: str) -> Catalog:
    return Catalog(catalog_dsn)


def query(dsn: str, statement: str) -> list[Any]:
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()
    finally:
        connection.close()


def generation(name: str | None = "icons", version: str | None = A) -> Generation:
    return Generation(str(uuid.uuid4()), name, version, "0" * 64, 2**32 - 1)


def test_migrating_again_and_at_once_changes_nothing(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.dsn("migrate_many")
    with ThreadPoolExecutor(4) as pool:
        heads = set(pool.map(lambda _: Catalog(dsn).migrate(), range(4)))
    assert heads == {"0004"}
    assert Catalog(dsn).migrate() == "0004"
    Catalog(dsn).check()


def test_a_migrator_waits_for_the_one_at_work(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_factory.store.catalog.LOCK_MS", 200)
    dsn = postgres.dsn("migrate_locked")
    holder = psycopg2.connect(dsn)
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        with pytest.raises(ServiceUnavailable, match="did not answer"):
            Catalog(dsn).migrate()
    finally:
        holder.close()
    assert Catalog(dsn).migrate() == "0004"


def test_empty_and_foreign_schemas_name_the_command(postgres: EmbeddedPostgres) -> None:
    empty = Catalog(postgres.dsn("empty"))
    with pytest.raises(ConfigurationError, match="catalog migrate"):
        empty.check()
    with pytest.raises(ConfigurationError, match="catalog migrate"):
        empty.live_models(TARGET)
    newer = postgres.dsn("newer")
    Catalog(newer).migrate()
    query(newer, "UPDATE catalog_version SET version_num = '9999' RETURNING 1")
    with pytest.raises(ConfigurationError, match=r"schema is 9999, this version needs 0004"):
        Catalog(newer).check()


def test_no_server_is_transient_and_a_bad_dsn_is_not(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(ServiceUnavailable) as unreachable:
        Catalog("postgresql://u:s3cret@127.0.0.1:1/x").check()
    assert "s3cret" not in str(unreachable.value)
    with pytest.raises(ServiceUnavailable):
        Catalog("postgresql://u:s3cret@127.0.0.1:1/x").migrate()
    with pytest.raises(ConfigurationError, match="LORA_FACTORY_CATALOG"):
        Catalog("")
    with pytest.raises(ConfigurationError) as malformed:
        Catalog("s3cret and nonsense").check()
    assert "s3cret" not in str(malformed.value)
    missing = postgres.dsn("there").replace("/there", "/not_there")
    with pytest.raises(ConfigurationError, match="does not exist"):
        Catalog(missing).check()
    with pytest.raises(ConfigurationError, match="does not exist"):
        Catalog(missing).migrate()


def test_a_slow_statement_is_cut(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalog._connect, "__defaults__", (50,))
    with pytest.raises(ServiceUnavailable, match="statement timeout"), catalog._transaction() as c:
        c.execute("SELECT pg_sleep(5)")


def test_publishing_twice_keeps_state_and_refuses_other_bytes(catalog: Catalog) -> None:
    first = catalog.publish(new_model())
    assert first.state == "candidate"
    assert first.conf["name"] == "x'; DROP TABLE models; --"
    catalog.promote("icons", A, TARGET)
    again = catalog.publish(new_model(overall=0.95))
    assert (again.state, again.overall) == ("deployed", 0.95)
    with pytest.raises(SpecError, match="other bytes"):
        catalog.publish(new_model(sha256="f" * 64))
    assert catalog.model("icons", A) == again
    assert catalog.model("icons", B) is None


def test_promote_and_rollback_walk_back_to_the_last_good(catalog: Catalog) -> None:
    for version in (A, B, C):
        catalog.publish(new_model(version))
        catalog.promote("icons", version, TARGET)
    live = catalog.live("icons", TARGET)
    assert live is not None
    assert (live.version, live.previous) == (C, B)
    assert catalog.promote("icons", C, TARGET) == live, "promoting the live one changes nothing"
    states = {v: m.state for v in (A, B, C) if (m := catalog.model("icons", v))}
    assert states == {A: "approved", B: "approved", C: "deployed"}

    back = catalog.rollback("icons", TARGET)
    assert (back.version, back.previous) == (B, A)
    assert [m.version for m in catalog.live_models(TARGET)] == [B]
    assert catalog.rollback("icons", TARGET).version == A
    with pytest.raises(SpecError, match="no earlier version"):
        catalog.rollback("icons", TARGET)
    with pytest.raises(SpecError, match="not published"):
        catalog.promote("icons", C, TARGET)
    assert catalog.live("icons", TARGET) is not None, "a refused change leaves the live one"


def test_retire_withdraws_live_and_candidate(catalog: Catalog) -> None:
    catalog.publish(new_model(A))
    catalog.publish(new_model(B))
    catalog.promote("icons", A, TARGET)
    assert catalog.retire("icons", TARGET, B)
    assert catalog.live("icons", TARGET) is not None
    assert catalog.retire("icons", TARGET)
    assert catalog.live("icons", TARGET) is None
    assert not catalog.retire("icons", TARGET)
    assert not catalog.retire("nobody", TARGET, A)
    assert catalog.publish(new_model(B)).state == "candidate", "publishing again revives"


def test_promotions_at_once_leave_one_live(catalog: Catalog, catalog_dsn: str) -> None:
    for version in (A, B, C):
        catalog.publish(new_model(version))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda v: catalog.promote("icons", v, TARGET), (A, B, C, A, B, C)))
    assert len(catalog.deployments()) == 1
    counted = query(catalog_dsn, "SELECT count(*) FROM models WHERE state = 'deployed'")
    assert counted == [(1,)]


def test_feedback_once_a_user_for_real_pictures_only(catalog: Catalog, catalog_dsn: str) -> None:
    catalog.publish(new_model())
    deployment = catalog.promote("icons", A, TARGET)
    drawn, bare = generation(), generation(None, None)
    catalog.add_generation(drawn)
    catalog.add_generation(bare)
    assert catalog.add_feedback(drawn.id, "u1", 1.0)
    assert not catalog.add_feedback(drawn.id, "u1", 0.0)
    assert catalog.add_feedback(drawn.id, "u2", 0.5, "too dark")
    for unknown in (str(uuid.uuid4()), bare.id, "not-a-uuid"):
        with pytest.raises(SpecError):
            catalog.add_feedback(unknown, "u1", 1.0)
    for rating in (-0.1, 1.1, float("nan")):
        with pytest.raises(SpecError, match="refused a value"):
            catalog.add_feedback(drawn.id, "u3", rating)
    now = datetime.now(UTC) + timedelta(minutes=1)
    summary = catalog.ratings(deployment, until=now)
    assert (summary.n, summary.mean, summary.new_items) == (2, 0.75, 2)
    early = catalog.ratings(deployment, until=deployment.promoted_at)
    assert (early.n, early.mean, early.new_items) == (0, None, 0)
    assert query(catalog_dsn, "SELECT count(*) FROM feedback") == [(2,)]


def test_new_items_count_any_version_since_promotion(catalog: Catalog) -> None:
    for version in (A, B):
        catalog.publish(new_model(version))
    catalog.promote("icons", A, TARGET)
    old, young = generation(version=A), generation(version=B)
    catalog.add_generation(old)
    catalog.add_generation(young)
    catalog.add_feedback(old.id, "early", 0.0)
    deployment = catalog.promote("icons", B, TARGET)
    catalog.add_feedback(old.id, "late", 0.0)
    catalog.add_feedback(young.id, "late", 1.0)
    summary = catalog.ratings(deployment, until=datetime.now(UTC) + timedelta(minutes=1))
    assert (summary.n, summary.mean, summary.new_items) == (1, 1.0, 2)


def test_the_first_decision_of_a_day_stays(catalog: Catalog) -> None:
    catalog.publish(new_model())
    values: dict[str, Any] = {
        "name": "icons",
        "version": A,
        "day": date(2026, 11, 24),
        "verdict": "retrain",
        "reason": "mean 0.4 < 0.7",
        "mean": 0.4,
        "n": 30,
        "new_items": 30,
        "run_id": "retrain__icons__2026-11-24__" + A,
    }
    first = RetrainDecision.model_validate(values)
    later = RetrainDecision.model_validate(values | {"verdict": "keep", "run_id": None})
    assert catalog.record_decision(first) == first
    assert catalog.record_decision(later) == first
    assert catalog.decision("icons", A, date(2026, 11, 24)) == first
    assert catalog.decision("icons", A, date(2026, 11, 25)) is None


def test_the_embedded_server_is_reused_and_stops(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        dsn = server.dsn("a name with % and '")
        Catalog(dsn).migrate()
    with pytest.raises(ServiceUnavailable):
        Catalog(dsn).check()
    with EmbeddedPostgres(data_dir) as server:
        Catalog(server.dsn("a name with % and '")).check()
    with pytest.raises(ConfigurationError, match="inside the with block"):
        server.dsn("x")


def test_a_killed_user_does_not_keep_the_server_up(data_dir: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from lora_factory.demo.postgres import EmbeddedPostgres;"
        "EmbeddedPostgres(Path(sys.argv[1])).__enter__(); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(data_dir)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": "include"}, check=False)
    assert killed.returncode == 9
    with EmbeddedPostgres(data_dir) as server:
        dsn = server.dsn("left")
        Catalog(dsn).migrate()
    with pytest.raises(ServiceUnavailable):
        Catalog(dsn).check()


def test_a_kept_server_stays_until_someone_stops_it(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, keep=True) as server:
        dsn = server.dsn("kept")
        Catalog(dsn).migrate()
    Catalog(dsn).check()
    with EmbeddedPostgres(data_dir):
        pass
    with pytest.raises(ServiceUnavailable):
        Catalog(dsn).check()
