"""``python -m lora_factory.serve``: the serving app under uvicorn, one process, one engine.

SIGTERM ends it gracefully: nothing more is accepted, what was accepted is drawn for ``--drain``
seconds at most; jobs that are left go on after the next start.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from lora_factory.contracts.settings import Settings
from lora_factory.diffusion.families import load_base
from lora_factory.errors import FactoryError
from lora_factory.guard.provenance.marks import image_marker
from lora_factory.models.loaders import limit_threads
from lora_factory.models.profiles import BaseEntry, load_profile
from lora_factory.serve.app import create_app
from lora_factory.serve.engine import MEBIBYTE, Engine, Limits
from lora_factory.serve.guards import load_guards
from lora_factory.serve.services import ServeConfig
from lora_factory.store.catalog import Catalog

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lora_factory.diffusion.base import DiffusionBase

log = logging.getLogger("lora_factory.serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        settings = Settings.from_environment()
        limits = Limits(args.queue, args.batch, args.adapter_mib * MEBIBYTE)
        app = build(args.profile, args.base, args.data, settings, limits=limits, drain=args.drain)
    except FactoryError as err:
        log.error("%s: %s", type(err).__name__, err)  # noqa: TRY400 - one line, no traceback
        return 1
    # uvicorn ends gracefully on SIGTERM, then raises it once more for the handler before its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=200,
        timeout_graceful_shutdown=int(args.drain) + 1,
    )
    return 0


def build(
    profile: str,
    base: str | None,
    data: Path,
    settings: Settings,
    *,
    limits: Limits | None = None,
    drain: float = 60.0,
) -> FastAPI:
    """The app for one base of a profile (None: its first); ``drain``: see :class:`ServeConfig`.

    Raises:
        FactoryError: profile, catalog or data folder can't be used.
    """
    bases = load_profile(profile, settings)
    entry = bases.base(base or next(iter(bases.bases), None), "art")
    config = ServeConfig(
        data=data.expanduser(),
        base=entry,
        catalog=Catalog(settings.catalog.get_secret_value()),
        marker=image_marker(settings, data.expanduser() / "provenance"),
        token=settings.serve_token.get_secret_value(),
        public=settings.serve_public,
        drain=drain,
    )
    guards = functools.partial(load_guards, bases, settings)
    return create_app(config, Engine(functools.partial(_load, entry, settings), guards, limits))


def _load(entry: BaseEntry, settings: Settings) -> DiffusionBase:
    limit_threads(settings)  # torch counts threads for the thread that asks
    return load_base(entry)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lora_factory.serve", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one, see the log")
    parser.add_argument("--profile", default="embedded", help="model profile")
    parser.add_argument("--base", help="name of the profile's base to draw with; its first")
    parser.add_argument("--data", type=Path, required=True, help="folder for LoRA files and key")
    usual = Limits()
    parser.add_argument("--queue", type=int, default=usual.queue, help="requests that may wait")
    parser.add_argument("--batch", type=int, default=usual.batch, help="pictures drawn together")
    parser.add_argument(
        "--adapter-mib",
        type=int,
        default=usual.adapter_bytes // MEBIBYTE,
        help="memory for LoRAs; beyond it the least recently used ones go",
    )
    parser.add_argument(
        "--drain", type=float, default=60.0, help="seconds for what was accepted, after SIGTERM"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
