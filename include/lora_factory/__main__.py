"""``python -m lora_factory <stage> --spec spec.json --report report.json``, and commands.

Exit status: 0 done; 1 failed for good; 75 (EX_TEMPFAIL) try again later. The report is the
StageResult, or ``{"error": {"type", "message", "transient"}}``. SIGTERM asks the stage to
keep its progress and stop. Commands that are no stage are in ``lora_factory.commands``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from lora_factory.commands import NAMES
from lora_factory.contracts.run import RUNNABLE
from lora_factory.contracts.settings import Settings
from lora_factory.errors import FactoryError, SpecError

log = logging.getLogger("lora_factory")
EXIT_FAILED = 1
EXIT_TRY_AGAIN = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("httpx", "httpx2", "httpcore", "urllib3", "PIL", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Before torch is loaded. Threads that spin at barriers made a small model's training step
    # fifty times slower on two busy cores; yielding costs up to twice on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return _stage(args) if args.command in RUNNABLE else _command(args)
    except FactoryError as err:
        log.error("%s: %s", type(err).__name__, err)  # noqa: TRY400 - one line, no traceback
        if args.command in RUNNABLE:
            error = {
                "type": type(err).__name__,
                "message": str(err),
                "transient": err.transient,
            }
            args.report.write_text(json.dumps({"error": error}), encoding="utf-8")
        return EXIT_TRY_AGAIN if err.transient else EXIT_FAILED


def _stage(args: argparse.Namespace) -> int:
    from lora_factory.runner import run_stage

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    result = run_stage(args.command, _read_spec(args.spec), Settings.from_environment(), stop=stop)
    args.report.write_text(result.model_dump_json(), encoding="utf-8")
    return 0


def _command(args: argparse.Namespace) -> int:
    module = _command_module(args.command)
    status: int = module.run(args, Settings.from_environment())
    return status


def _command_module(name: str) -> ModuleType:
    return importlib.import_module(f"lora_factory.commands.{name.replace('-', '_')}")


def _read_spec(path: Path) -> dict[str, object]:
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        msg = f"spec file {path} can't be read as JSON: {err}"
        raise SpecError(msg) from err
    if not isinstance(spec, dict):
        msg = f"spec file {path} must hold one JSON object"
        raise SpecError(msg)
    return spec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lora_factory", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for stage in RUNNABLE:
        command = commands.add_parser(stage, help=f"run the {stage} stage")
        command.add_argument("--spec", type=Path, required=True, help="JSON file: the stage's Spec")
        command.add_argument("--report", type=Path, required=True, help="JSON file to write")
    for name in NAMES:
        module = _command_module(name)
        module.arguments(commands.add_parser(name, help=module.HELP, description=module.__doc__))
    return parser


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Airflow kills 5 s after SIGTERM, and taking torch apart at a normal exit takes seconds.
    os._exit(status)
