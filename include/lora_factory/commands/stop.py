"""Ask the training of a run to end in order: its best weights go on to evaluation.

Without RUN_ID: the trainings under way. The training looks every few seconds; nothing it has
learnt is lost. Attempts after it are not made: what was asked to stop is judged as it is.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from datetime import UTC, datetime

from lora_factory.contracts.registry import Training
from lora_factory.contracts.settings import Settings
from lora_factory.errors import SpecError

HELP = "end a run's training in order, its best weights kept"
SILENT = 60.0
"""Seconds after which a training that says nothing is called so."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run_id", nargs="?", metavar="RUN_ID", help="id of the run, as Airflow's")
    parser.add_argument("--by", metavar="NAME", help="who asks; default: the system's user")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Ask, or list.

    Raises:
        SpecError: the run has no training under way.
        ConfigurationError: no catalog.
        ServiceUnavailable: the catalog did not answer.
    """
    from lora_factory.store.catalog import Catalog

    catalog = Catalog(settings.catalog.get_secret_value())
    if args.run_id is None:
        now = datetime.now(UTC)
        sys.stdout.writelines(f"{line(each, now)}\n" for each in catalog.trainings())
        return 0
    by = (args.by or getpass.getuser()).strip()
    if not 1 <= len(by) <= 200 or not by.isprintable():
        msg = "--by is a name of 1 to 200 printable characters"
        raise SpecError(msg)
    asked = catalog.stop_training(args.run_id.replace("\x00", ""), by)
    if not asked:
        under_way = ", ".join(repr(each.run_id) for each in catalog.trainings()) or "none"
        msg = f"run {args.run_id!r} has no training under way; under way: {under_way}"
        raise SpecError(msg)
    now = datetime.now(UTC)
    sys.stdout.writelines(f"{line(each, now)}\n" for each in asked)
    return 0


def line(training: Training, now: datetime) -> str:
    """One line of the list."""
    silent = (now - training.seen_at).total_seconds()
    state = f"  silent for {silent:.0f} s" if silent > SILENT else ""
    if training.stop_at is not None:
        state += f"  asked to stop by {training.stop_by}"
    started = f"{training.started_at:%Y-%m-%d %H:%M}"
    return f"{training.run_id}  step {training.step} of {training.steps}  since {started}{state}"
