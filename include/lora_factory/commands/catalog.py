"""``catalog migrate``: bring the catalog's schema up to date."""

from __future__ import annotations

import argparse
import logging

from lora_factory.contracts.settings import Settings

log = logging.getLogger(__name__)
HELP = "the catalog's schema"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["migrate"])


def run(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001  (one action)
    """Migrate.

    Raises:
        ServiceUnavailable: the catalog did not answer.
    """
    from lora_factory.store.catalog import Catalog

    Catalog(settings.catalog.get_secret_value()).migrate()
    log.info("catalog is up to date")
    return 0
