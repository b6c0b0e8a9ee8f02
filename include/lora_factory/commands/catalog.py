"""``catalog migrate``: bring the catalog's schema up to date. ``catalog models``: list models."""

from __future__ import annotations

import argparse
import logging
import sys

from lora_factory.contracts.registry import Model
from lora_factory.contracts.settings import Settings

log = logging.getLogger(__name__)
HELP = "the catalog's schema, and its models"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["migrate", "models"])


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Migrate, or list.

    Raises:
        ServiceUnavailable: the catalog did not answer.
    """
    from lora_factory.store.catalog import Catalog

    catalog = Catalog(settings.catalog.get_secret_value())
    if args.action == "models":
        sys.stdout.writelines(f"{line(model)}\n" for model in catalog.models())
    else:
        catalog.migrate()
        log.info("catalog is up to date")
    return 0


def line(model: Model) -> str:
    """One line of the list: name, version, state, score, and whether it must go."""
    mark = f"  taken down: {model.taken_down!r}" if model.taken_down is not None else ""
    return f"{model.name}  {model.version}  {model.state}  {model.overall:.3f}{mark}"
