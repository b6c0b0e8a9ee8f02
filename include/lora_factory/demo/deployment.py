"""A whole small deployment on loopback: PostgreSQL, Airflow, the serving app, the gallery.

The same environment variables as in docker-compose.yaml, with services from wheels.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx

from lora_factory.demo.airflow_api import AirflowApi
from lora_factory.demo.postgres import EmbeddedPostgres
from lora_factory.demo.processes import Processes, free_ports
from lora_factory.errors import ConfigurationError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[3]
USER = "admin"
AIRFLOW_PARTS = ("dag-processor", "scheduler", "triggerer", "api-server")


class Deployment:
    """Starts what isn't running yet, and stops what it started.

    Args:
        folder: everything the deployment keeps.
        folders: name → folder that ``source=folder`` may read.
    """

    def __init__(self, folder: Path, folders: Mapping[str, Path] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.processes = Processes(self.folder / "run")
        self.postgres = EmbeddedPostgres(postgres_folder(self.folder))
        self._folders = dict(folders or {})
        self._secrets = self._load_secrets()
        ports = free_ports(6, self.folder / "ports.json") if not self.running() else self._ports()
        self._api_port, self._serve_port, self._site_port, self._log_port = ports[:4]
        self._trigger_log_port = ports[4]
        self.api_url = f"http://127.0.0.1:{self._api_port}"
        self.serve_url = f"http://127.0.0.1:{self._serve_port}"
        self.site_url = f"http://127.0.0.1:{self._site_port}"
        self.api = AirflowApi(self.api_url, USER, self.password)

    @property
    def password(self) -> str:
        """Of the Airflow user ``admin``."""
        return self._secrets["password"]

    def running(self) -> bool:
        """Whether a kept deployment is up."""
        return self.processes.alive("api-server")

    def start(self) -> None:
        """Start everything; returns when the API is healthy and the DAGs are there.

        Raises:
            ServiceUnavailable: a part did not start; names its log.
            ConfigurationError: a DAG can't be imported.
        """
        if self._folders and self.running():
            log.info("restarting what was left up, so that it offers the folder")
            self.processes.stop_all()
        self.postgres.__enter__()
        catalog = self.postgres.dsn("lora_factory")
        env = self.environment(self.postgres.dsn("airflow"), catalog)
        self._write_airflow_files()
        if not self.running():
            self._migrate(env, catalog)
        python = [sys.executable, "-m"]
        self.processes.start(
            "site", [*python, "lora_factory.demo.site", "--port", str(self._site_port)], env
        )
        for part in AIRFLOW_PARTS:
            self.processes.start(part, [*python, "airflow", part], env)
        self._start_serving(env)
        self.processes.wait("api-server", self.api.healthy, 180, "Airflow")
        self.processes.wait("serve", self._serving, 120, "the serving app")
        self.api.login()
        self._prepare_airflow()

    def stop(self) -> None:
        """Stop every process and PostgreSQL."""
        self.api.close()
        self.processes.stop_all()
        self.postgres.__exit__(None, None, None)

    def leave(self) -> None:
        """Go away and leave everything up."""
        self.api.close()
        self.postgres.keep = True
        self.postgres.__exit__(None, None, None)

    def environment(self, metadata: str, catalog: str) -> dict[str, str]:
        """What every process of the deployment gets."""
        folders = ",".join(f"{name}={path.resolve()}" for name, path in self._folders.items())
        own = {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("include", "plugins")),
            "LORA_FACTORY_STORE": (self.folder / "store").as_uri(),
            "LORA_FACTORY_SCRATCH": str(self.folder / "scratch"),
            # Small layers: a second thread waits more than it works, and Airflow needs a core.
            "LORA_FACTORY_THREADS": "1",
            "LORA_FACTORY_CATALOG": catalog,
            "LORA_FACTORY_CRAWL_HOSTS": f"127.0.0.1:{self._site_port}",
            "LORA_FACTORY_CRAWL_PUBLIC": "false",  # the demo leaves this machine alone
            "LORA_FACTORY_FOLDERS": folders,
            "LORA_FACTORY_SERVE_URL": self.serve_url,
            "LORA_FACTORY_SERVE_PUBLIC": "600",  # its page is for whoever sits at this machine
            "LORA_FACTORY_SERVE_TOKEN": self._secrets["serve_token"],
            "LORA_FACTORY_SIGNING_KEY": str(self._signing_key()),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LORA_FACTORY_", "AIRFLOW__"))
        }
        return {**inherited, **own, **self._airflow_environment(metadata)}

    def _airflow_environment(self, metadata: str) -> dict[str, str]:
        home = self.folder / "airflow"
        options = {
            ("core", "dags_folder"): str(ROOT / "dags"),
            ("core", "plugins_folder"): str(ROOT / "plugins"),
            ("core", "load_examples"): "False",
            ("core", "executor"): "LocalExecutor",
            # Idle workers are forked ahead and cost memory each.
            ("core", "parallelism"): "2",
            ("core", "auth_manager"): (
                "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
            ),
            ("core", "simple_auth_manager_users"): f"{USER}:admin",
            ("core", "simple_auth_manager_passwords_file"): str(home / "passwords.json"),
            ("core", "fernet_key"): self._secrets["fernet_key"],
            ("core", "execution_api_server_url"): f"{self.api_url}/execution/",
            ("database", "sql_alchemy_conn"): metadata.replace(
                "postgresql://", "postgresql+psycopg2://"
            ),
            ("api", "host"): "127.0.0.1",
            ("api", "port"): str(self._api_port),
            ("api", "base_url"): self.api_url,
            ("api", "workers"): "1",
            ("api", "secret_key"): self._secrets["api_secret"],
            ("api_auth", "jwt_secret"): self._secrets["jwt_secret"],
            ("logging", "worker_log_server_port"): str(self._log_port),
            ("logging", "trigger_log_server_port"): str(self._trigger_log_port),
            # The run's own clock: look for work often, a stage is short here.
            ("scheduler", "scheduler_idle_sleep_time"): "0.2",
            ("scheduler", "job_heartbeat_sec"): "1",
            # A worker is held for one such interval after each task, however short.
            ("workers", "min_heartbeat_interval"): "1",
            ("dag_processor", "min_file_process_interval"): "300",
            ("usage_data_collection", "enabled"): "False",
        }
        named = {f"AIRFLOW__{s.upper()}__{o.upper()}": v for (s, o), v in options.items()}
        return {"AIRFLOW_HOME": str(home), **named}

    def _write_airflow_files(self) -> None:
        home = self.folder / "airflow"
        home.mkdir(exist_ok=True)
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({USER: self.password}))
        passwords.chmod(0o600)

    def _migrate(self, env: Mapping[str, str], catalog: str) -> None:
        from lora_factory.store.catalog import Catalog

        log.info("preparing the databases")
        out = self.processes.log_file("migrate")
        with out.open("ab") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=dict(env),
                stdout=stream,
                stderr=stream,
                check=False,
            )
        if done.returncode:
            msg = f"airflow db migrate failed; see {out}"
            raise ConfigurationError(msg)
        Catalog(catalog).migrate()

    def _start_serving(self, env: Mapping[str, str]) -> None:
        argv = [sys.executable, "-m", "lora_factory.serve", "--host", "127.0.0.1"]
        argv += ["--port", str(self._serve_port), "--profile", "embedded"]
        argv += ["--data", str(self.folder / "serve")]
        self.processes.start("serve", argv, env)

    def _serving(self) -> bool:
        try:
            return httpx.get(f"{self.serve_url}/readyz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def _prepare_airflow(self) -> None:
        pools = json.loads((ROOT / "include" / "deploy" / "pools.json").read_text())
        for name, pool in pools.items():
            self.api.make_pool(name, pool["slots"], pool["description"])

        def ready() -> bool:
            errors = self.api.import_errors()
            if errors:
                msg = f"a DAG can't be imported: {errors[0]}"
                raise ConfigurationError(msg)
            return self.api.has_dag("lora_factory") and self.api.has_dag("lora_feedback_retrain")

        self.processes.wait("dag-processor", ready, 90, "the DAG processor")
        self.api.unpause("lora_factory")

    def _signing_key(self) -> Path:
        """Key of releases and images, made once; ``keys/`` has what verifiers need."""
        from lora_factory.guard.provenance.keys import PRIVATE, make_keys

        key = self.folder / "keys" / PRIVATE
        return key if key.exists() else make_keys(key.parent, "LoRA Factory demo").path

    def _ports(self) -> list[int]:
        return [int(port) for port in json.loads((self.folder / "ports.json").read_text())]

    def _load_secrets(self) -> dict[str, str]:
        file = self.folder / "secrets.json"
        if not file.exists():
            made = {
                name: secrets.token_urlsafe(24)
                for name in ("serve_token", "api_secret", "jwt_secret")
            }
            made["password"] = secrets.token_urlsafe(9)
            made["fernet_key"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            file.touch(mode=0o600)
            file.write_text(json.dumps(made))
        return dict(json.loads(file.read_text()))


def postgres_folder(folder: Path) -> Path:
    """Where PostgreSQL keeps its data.

    Started by root it runs as another user, who must reach the folder; where a parent is
    closed (a checkout under /root) the data goes to the temporary folder instead of opening
    that parent to everybody.
    """
    wanted = folder / "postgres"
    closed = any(not parent.stat().st_mode & 0o001 for parent in folder.parents)
    if os.geteuid() != 0 or not closed:
        return wanted
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"lora-factory-postgres-{digest}"
