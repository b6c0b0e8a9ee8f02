"""Catalog: what the factory remembers across runs, in PostgreSQL.

Statements lie in ``sql/``, one a file, parameters always bound; the schema in
``migrations/``, forward only. Each method is one short connection and one transaction, so a
Catalog may be shared by threads and costs nothing while idle.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extras import Json, RealDictCursor

from lora_factory.contracts.registry import (
    ApiKey,
    Deployment,
    Model,
    NewModel,
    RatingSummary,
    RetrainDecision,
    Scope,
    Training,
)
from lora_factory.contracts.takedown import Reach, Takedown
from lora_factory.errors import ConfigurationError, ServiceUnavailable, SpecError

SQL = Path(__file__).parent / "sql"
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATE = "python -m lora_factory catalog migrate"
STATEMENT_MS = 10_000
ITEMS_AT_ONCE = 1000
LOCK_MS = 60_000
MIGRATION_LOCK = 7_301_846_510  # any number that nobody else takes as an advisory lock
WRONG_SCHEMA = {
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_COLUMN,
    errorcodes.INVALID_SCHEMA_NAME,
    errorcodes.INSUFFICIENT_PRIVILEGE,
}
# libpq gives a refused connection no SQLSTATE; these say that waiting won't help
REFUSED = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")


class Generation(NamedTuple):
    """One picture that was drawn; ``name`` and ``version`` are None for the base alone."""

    id: str
    name: str | None
    version: str | None
    prompt_sha256: str
    seed: int


class Catalog:
    """The catalog behind a libpq DSN or URL.

    Every method raises:
        ServiceUnavailable: the database did not answer in time.
        ConfigurationError: no DSN, access refused, or a schema that must be migrated.
    """

    def __init__(self, dsn: str) -> None:
        if not dsn:
            msg = "no catalog: set LORA_FACTORY_CATALOG to a postgresql:// URL"
            raise ConfigurationError(msg)
        self._dsn = dsn.replace("postgresql+psycopg2://", "postgresql://", 1)

    # -- schema

    def migrate(self) -> str:
        """Bring the schema to this version's, one migrator at a time; returns the revision."""
        from alembic import command
        from sqlalchemy import create_engine, pool, text
        from sqlalchemy.exc import DBAPIError

        engine = create_engine(
            "postgresql+psycopg2://",
            creator=lambda: self._connect(statement_ms=0),
            poolclass=pool.NullPool,
        )
        config, head = _alembic()
        with _catalog_errors():
            try:
                with engine.begin() as connection:
                    lock = text("SELECT pg_advisory_xact_lock(:lock)")
                    connection.execute(lock, {"lock": MIGRATION_LOCK})
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
            except DBAPIError as err:
                raise (err.orig or err) from err
        return head

    def check(self) -> None:
        """Raise unless the database answers and has this version's schema."""
        _, head = _alembic()
        with self._transaction() as cursor:
            cursor.execute("SELECT version_num FROM catalog_version")
            row = cursor.fetchone()
        found = row["version_num"] if row else "none"
        if found != head:
            msg = f"catalog schema is {found}, this version needs {head}; run: {MIGRATE}"
            raise ConfigurationError(msg)

    # -- models and deployments

    def publish(self, model: NewModel) -> Model:
        """Register a version as candidate; again: refresh it, keep its state.

        Raises:
            SpecError: the version is taken by other bytes, or was taken down.
        """
        values = model.model_dump(mode="json") | {"conf": Json(model.conf)}
        with self._transaction() as cursor:
            row = _one(cursor, "model_publish", values)
            if row is None:
                msg = f"{model.name} {model.version} is there with other bytes; use a new version"
                raise SpecError(msg)
            _refuse_taken_down(_one(cursor, "model_get", values))
        return Model.model_validate(row)

    def model(self, name: str, version: str) -> Model | None:
        """One version, or None."""
        with self._transaction() as cursor:
            row = _one(cursor, "model_get", {"name": name, "version": version})
        return Model.model_validate(row) if row else None

    def models(self) -> list[Model]:
        """Every version there is, by name and age."""
        with self._transaction() as cursor:
            return [Model.model_validate(row) for row in _all(cursor, "models_all", {})]

    def live_models(self, target: str) -> list[Model]:
        """The version of each name that ``target`` serves, by name."""
        with self._transaction() as cursor:
            return [
                Model.model_validate(r) for r in _all(cursor, "models_live", {"target": target})
            ]

    def live(self, name: str, target: str) -> Deployment | None:
        """What ``target`` serves under ``name``."""
        with self._transaction() as cursor:
            row = _one(cursor, "deployment_live", {"name": name, "target": target})
        return Deployment.model_validate(row) if row else None

    def deployments(self) -> list[Deployment]:
        """All live deployments, on any target."""
        with self._transaction() as cursor:
            return [Deployment.model_validate(row) for row in _all(cursor, "deployments_live", {})]

    def promote(self, name: str, version: str, target: str) -> Deployment:
        """Make a version the live one; the one before stays approved for a rollback.

        Promoting the live version changes nothing.

        Raises:
            SpecError: no such version, or it is retired or was taken down.
        """
        with self._transaction() as cursor:
            _run(cursor, "model_lock", {"name": name})
            model = _one(cursor, "model_get", {"name": name, "version": version})
            if model is None or model["state"] == "retired":
                msg = f"{name} {version} is not published; publish it before promoting it"
                raise SpecError(msg)
            _refuse_taken_down(model)
            live = _one(cursor, "deployment_live", {"name": name, "target": target})
            if live is not None and live["version"] == version:
                return Deployment.model_validate(live)
            previous = live["version"] if live else None
            return _switch(cursor, (name, target), version, previous, leave="approved")

    def rollback(self, name: str, target: str) -> Deployment:
        """Return to the version before the live one; the live one is retired.

        Raises:
            SpecError: nothing is live, or there is nothing to return to, or that was taken down.
        """
        with self._transaction() as cursor:
            _run(cursor, "model_lock", {"name": name})
            live = _one(cursor, "deployment_live", {"name": name, "target": target})
            version = live["previous"] if live else None
            key = {"name": name, "target": target, "version": version}
            model = _one(cursor, "model_get", key) if version else None
            if model is None or model["state"] == "retired":
                msg = f"{name} has no earlier version to return to; promote one instead"
                raise SpecError(msg)
            _refuse_taken_down(model)
            before = _one(cursor, "deployment_before", key)
            previous = before["previous"] if before else None
            return _switch(cursor, (name, target), str(version), previous, leave="retired")

    def retire(self, name: str, target: str, version: str | None = None) -> bool:
        """Withdraw a version (None: the live one); False if there is none.

        A live version stops being served; nothing takes its place.
        """
        with self._transaction() as cursor:
            _run(cursor, "model_lock", {"name": name})
            live = _one(cursor, "deployment_live", {"name": name, "target": target})
            chosen = version or (live["version"] if live else None)
            key = {"name": name, "target": target, "version": chosen}
            if chosen is None or _one(cursor, "model_get", key) is None:
                return False
            if live is not None and live["version"] == chosen:
                _one(cursor, "deployment_end", key)
            _run(cursor, "model_state", key | {"state": "retired"})
            return True

    # -- generations, ratings, decisions

    def add_generation(self, generation: Generation) -> None:
        """Remember a picture, so that it can be rated."""
        with self._transaction() as cursor:
            _run(cursor, "generation_add", generation._asdict())

    def add_feedback(self, generation_id: str, user: str, rating: float, reason: str = "") -> bool:
        """Keep one rating in [0, 1] by a pseudonymous user; False: rated before.

        Raises:
            SpecError: no such generation.
        """
        values = {"generation_id": generation_id, "user": user, "rating": rating, "reason": reason}
        with self._transaction() as cursor:
            if _one(cursor, "feedback_add", values) is not None:
                return True
            if _one(cursor, "generation_exists", values) is None:
                msg = f"no generation {generation_id}; only pictures of a LoRA can be rated"
                raise SpecError(msg)
        return False

    def ratings(self, deployment: Deployment, until: datetime) -> RatingSummary:
        """What was said of a deployment before ``until`` (aware datetime)."""
        values = {
            "name": deployment.name,
            "version": deployment.version,
            "since": deployment.promoted_at,
            "until": until,
        }
        with self._transaction() as cursor:
            return RatingSummary.model_validate(_one(cursor, "ratings_summary", values))

    def record_decision(self, decision: RetrainDecision) -> RetrainDecision:
        """Keep a decision; returns the stored one, which is the first of its day."""
        with self._transaction() as cursor:
            _run(cursor, "decision_add", decision.model_dump())
            row = _one(cursor, "decision_get", decision.model_dump())
        return RetrainDecision.model_validate(row)

    def decision(self, name: str, version: str, day: date) -> RetrainDecision | None:
        """The day's decision on a version, or None."""
        key = {"name": name, "version": version, "day": day}
        with self._transaction() as cursor:
            row = _one(cursor, "decision_get", key)
        return RetrainDecision.model_validate(row) if row else None

    # -- takedowns

    def mark(self, reach: Reach, reason: str) -> None:
        """Take an item down: remember it, the images it means and what was made with them.

        Marking again adds what has been found since.
        """
        finds: list[tuple[str, str, str | None]]
        finds = [("image", sha256, None) for sha256 in reach.images]
        finds += [(find.kind, find.key, find.uri) for find in reach.artifacts]
        with self._transaction() as cursor:
            _run(cursor, "takedown_add", {"item": reach.item, "reason": reason})
            for kind, ref, uri in finds:
                values = {"item": reach.item, "kind": kind, "ref": ref, "uri": uri}
                _run(cursor, "takedown_find_add", values)

    def takedowns(self) -> list[Takedown]:
        """Every item that was taken down, the first one first."""
        with self._transaction() as cursor:
            return [Takedown.model_validate(row) for row in _all(cursor, "takedowns_all", {})]

    def taken_down(self, items: Iterable[str]) -> dict[str, str]:
        """Which of these URLs and sha256 were taken down → the item of the takedown."""
        found: dict[str, str] = {}
        wanted = iter(items)
        with self._transaction() as cursor:
            while batch := list(itertools.islice(wanted, ITEMS_AT_ONCE)):
                for row in _all(cursor, "takedowns_of", {"items": batch}):
                    found[row["found"]] = row["item"]
        return found

    def takedown_of(self, kind: str, key: str) -> Takedown | None:
        """The first takedown that reached an artifact when it was marked, or None."""
        with self._transaction() as cursor:
            row = _one(cursor, "takedown_mark", {"kind": kind, "key": key})
        return Takedown.model_validate(row) if row else None

    # -- keys of the serving app

    def add_api_key(
        self, name: str, scopes: Sequence[Scope], per_minute: int
    ) -> tuple[str, ApiKey]:
        """Make a key; returns it whole, for the last time, and what is kept of it."""
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        values = {
            "id": identity,
            "name": name,
            "secret": _digest(secret),
            "scopes": sorted(set(scopes)),
            "per_minute": per_minute,
        }
        with self._transaction() as cursor:
            row = _one(cursor, "api_key_add", values)
        return f"lf_{identity}_{secret}", ApiKey.model_validate(row)

    def api_key(self, key: str) -> ApiKey | None:
        """The key that was given, unless it is unknown or revoked."""
        prefix, _, rest = key.partition("_")
        identity, _, secret = rest.partition("_")
        if prefix != "lf" or not secret:
            return None
        with self._transaction() as cursor:
            row = _one(cursor, "api_key_find", {"id": identity, "secret": _digest(secret)})
        return ApiKey.model_validate(row) if row else None

    def api_keys(self) -> list[ApiKey]:
        """Every key there was, the oldest first."""
        with self._transaction() as cursor:
            return [ApiKey.model_validate(row) for row in _all(cursor, "api_keys_all", {})]

    def revoke_api_key(self, identity: str) -> bool:
        """Make a key useless; False if there is none of this id, or it is so already."""
        with self._transaction() as cursor:
            return _one(cursor, "api_key_revoke", {"id": identity}) is not None

    # -- trainings under way

    def training_seen(self, run_id: str, training: str, step: int, steps: int) -> bool:
        """Say how far a training is; whether a person asked it to end."""
        values = {"run_id": run_id, "training": training, "step": step, "steps": steps}
        with self._transaction() as cursor:
            row = _one(cursor, "training_seen", values)
        return bool(row and row["stop"])

    def training_ended(self, run_id: str, training: str, step: int) -> None:
        """Say that a training ended after ``step`` steps."""
        with self._transaction() as cursor:
            _run(cursor, "training_end", {"run_id": run_id, "training": training, "step": step})

    def stop_training(self, run_id: str, by: str) -> list[Training]:
        """Ask the training of a run to end in order; none: it has none under way."""
        with self._transaction() as cursor:
            rows = _all(cursor, "training_stop", {"run_id": run_id, "by": by})
        return [Training.model_validate(row) for row in rows]

    def stop_asked(self, run_id: str) -> bool:
        """Whether a person asked any training of this run to end."""
        with self._transaction() as cursor:
            row = _one(cursor, "training_asked", {"run_id": run_id})
        return bool(row and row["stop"])

    def trainings(self) -> list[Training]:
        """Trainings that didn't end, the oldest first; killed ones are not seen any more."""
        with self._transaction() as cursor:
            return [Training.model_validate(row) for row in _all(cursor, "trainings_open", {})]

    # -- connections

    def _connect(self, statement_ms: int = STATEMENT_MS) -> Any:
        options = f"-c statement_timeout={statement_ms} -c lock_timeout={LOCK_MS} -c timezone=UTC"
        return psycopg2.connect(
            self._dsn,
            connect_timeout=5,
            application_name="lora_factory",
            options=options,
        )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor on a connection of its own; commits at the end, rolls back on an error."""
        with _catalog_errors():
            connection = self._connect()
            try:
                with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
                    yield cursor
            finally:
                connection.close()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@functools.lru_cache(maxsize=64)
def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def _run(cursor: Any, name: str, values: Mapping[str, Any]) -> None:
    cursor.execute(_sql(name), values)


def _one(cursor: Any, name: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    cursor.execute(_sql(name), values)
    row = cursor.fetchone()
    return dict(row) if row else None


def _all(cursor: Any, name: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    cursor.execute(_sql(name), values)
    return [dict(row) for row in cursor.fetchall()]


def _refuse_taken_down(model: Mapping[str, Any] | None) -> None:
    if model is not None and model["taken_down"] is not None:
        msg = (
            f"{model['name']} {model['version']} was trained with {model['taken_down']}, which was "
            "taken down; run the factory again, it leaves the item out"
        )
        raise SpecError(msg)


def _switch(
    cursor: Any, where: tuple[str, str], version: str, previous: str | None, *, leave: str
) -> Deployment:
    """End what is live at (name, target), give it state ``leave``, and start ``version``."""
    key = {"name": where[0], "target": where[1], "version": version, "previous": previous}
    ended = _one(cursor, "deployment_end", key)
    if ended is not None:
        _run(cursor, "model_state", ended | {"state": leave})
    started = _one(cursor, "deployment_start", key)
    _run(cursor, "model_state", key | {"state": "deployed"})
    return Deployment.model_validate(started)


def _alembic() -> tuple[Any, str]:
    """Alembic's configuration and the newest revision of this version."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config, str(ScriptDirectory.from_config(config).get_current_head())


@contextmanager
def _catalog_errors() -> Iterator[None]:
    """Turn the driver's exceptions into the factory's, at this one boundary."""
    try:
        yield
    except psycopg2.Error as err:
        first = (str(err).strip() or type(err).__name__).splitlines()[0]
        if err.pgcode in WRONG_SCHEMA:
            msg = f"catalog schema does not fit: {first}; run: {MIGRATE}"
            raise ConfigurationError(msg) from err
        if isinstance(err, psycopg2.OperationalError):
            if err.pgcode is None and any(sign in first for sign in REFUSED):
                msg = f"catalog refused access: {first}; correct LORA_FACTORY_CATALOG"
                raise ConfigurationError(msg) from err
            msg = f"catalog did not answer: {first}; is PostgreSQL up?"
            raise ServiceUnavailable(msg) from err
        if isinstance(err, psycopg2.ProgrammingError) and err.pgcode is None:
            # libpq quotes the DSN, password and all, in what it says of a malformed one
            msg = "LORA_FACTORY_CATALOG is not a postgresql:// URL; correct it"
            raise ConfigurationError(msg) from None
        if isinstance(err, psycopg2.InterfaceError):
            msg = f"catalog connection was lost: {first}; try again"
            raise ServiceUnavailable(msg) from err
        msg = f"catalog refused a value: {first}"
        raise SpecError(msg) from err
