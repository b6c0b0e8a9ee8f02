"""``profile check [NAME]``: what a profile's models are, and whether they can be loaded here.
``profile pull [NAME]``: download those of a hub (HF_ENDPOINT, HF_TOKEN, HF_HOME), go on from what
an earlier pull had, verify every file, and write ``<NAME>.lock.toml``, which loaders hold to.

Exit status 0: all of it is usable; 1: something isn't; 75: the hub did not answer, try again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from lora_factory.contracts.settings import Settings
from lora_factory.models.profiles import Profile, load_profile, lock_file
from lora_factory.models.pull import pull, readable_size
from lora_factory.models.status import NOT_PULLED, ModelStatus, ProfileStatus, inspect

HELP = "models of a profile: check them, pull them"
DEFAULT = "standard"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=["check", "pull"])
    parser.add_argument(
        "name", nargs="?", default=DEFAULT, metavar="NAME", help="default: standard"
    )
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--quick", action="store_true", help="check: compare sizes, not hashes")
    parser.add_argument("--online", action="store_true", help="check: ask the hub what is not here")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROLE|BASE", help="pull: just this one"
    )
    parser.add_argument(
        "--update", action="store_true", help="pull: what branches and tags are today"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Check or pull.

    Raises:
        SpecError: no such profile.
        ConfigurationError: the profile, its lock file, the disk or the token.
        ServiceUnavailable: the hub did not answer.
    """
    failed: dict[str, str] = {}
    profile = load_profile(args.name, settings)
    if args.action == "pull":
        target = lock_file(args.name, settings, write=True)
        failed = pull(profile, target, only=args.only, update=args.update)
        profile = load_profile(args.name, settings)
    status = _status(args, profile, settings)
    if failed:
        models = [_with_failure(model, failed) for model in status.models]
        status = status.model_copy(update={"models": tuple(models), "usable": False})
    sys.stdout.write(status.model_dump_json(indent=1) + "\n" if args.json else table(status))
    if args.action == "pull":
        return 1 if failed else 0
    return 0 if status.usable else 1


def _status(args: argparse.Namespace, profile: Profile, settings: Settings) -> ProfileStatus:
    from lora_factory.diffusion.families import FAMILIES
    from lora_factory.models.cache import cache_folder
    from lora_factory.models.loaders import device

    where = device()
    pulled = args.action == "pull"  # which has just verified everything it left
    models = tuple(
        _with_endpoint(model, settings)
        for model in inspect(
            profile,
            where,
            sorted(FAMILIES),
            hashes=not (args.quick or pulled),
            online=args.online and not pulled,
        )
    )
    return ProfileStatus(
        profile=args.name,
        usable=all(model.usable for model in models),
        lock=str(lock_file(args.name, settings)),
        cache=str(cache_folder()),
        device=where,
        models=models,
    )


def _with_endpoint(model: ModelStatus, settings: Settings) -> ModelStatus:
    if model.kind != "llm" or settings.llm_url:
        return model
    problem = "LORA_FACTORY_LLM_URL is not set: pictures are labelled zero-shot"
    return model.model_copy(update={"problem": problem})


def _with_failure(model: ModelStatus, failed: Mapping[str, str]) -> ModelStatus:
    if model.name not in failed:
        return model
    return model.model_copy(update={"state": "refused", "problem": failed[model.name]})


def table(status: ProfileStatus) -> str:
    """The state of a profile for people: one line a model, problems below it."""
    rows = [
        ("role or base", "kind", "model", "revision", "size", "licence", "files", "on", "state")
    ]
    for model in status.models:
        place = " ".join(part for part in (model.device, model.dtype) if part)
        rows.append((
            model.name,
            model.kind,
            model.model,
            _revision(model),
            "" if model.size is None else readable_size(model.size),
            model.licence or ("" if model.state == "no files" else "?"),
            model.files,
            place,
            model.state,
        ))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(rows[0], widths)]
    for row, model in zip(rows[1:], status.models, strict=True):
        lines.append(_line(row, widths))
        if model.problem and model.problem != NOT_PULLED:  # which the state says
            lines.append(f"  ! {model.problem}")
    good = sum(model.usable for model in status.models)
    lines += ["", f"profile {status.profile}: {good} of {len(status.models)} usable"]
    if missing := sum(model.state in {"not pulled", "incomplete"} for model in status.models):
        lines.append(f"{missing} to pull: python -m lora_factory profile pull {status.profile}")
    if any(model.state not in {"no files", "present"} for model in status.models):
        lines += [f"cache {status.cache}", f"lock {status.lock}"]
    return "\n".join(lines) + "\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _revision(model: ModelStatus) -> str:
    """``commit``, or ``branch → commit`` where the profile names something that may move."""
    if model.pinned or not model.commit:
        return model.revision[:12] if model.pinned else model.revision
    return f"{model.revision} → {model.commit[:12]}"
