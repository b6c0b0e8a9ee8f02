"""``deploy-plan --spec spec.json``: what deploying would do. Looks, and changes nothing.

The spec is the deploy stage's. Refused is what the stage would refuse, too: a LoRA that did not
pass, another one than was evaluated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lora_factory.contracts.settings import Settings
from lora_factory.errors import SpecError

HELP = "print what the deploy stage would do, and do nothing"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--spec", type=Path, required=True, help="JSON file: the stage's Spec")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Check the release, ask the target, print.

    Raises:
        SpecError, ReleaseError: the stage would refuse it.
        ConfigurationError, ServiceUnavailable: the target can't be asked.
        ArtifactError: an input is missing or damaged.
    """
    from pydantic import ValidationError

    from lora_factory.contracts.specs import DeploySpec
    from lora_factory.deploy.stage import checked_release, open_target
    from lora_factory.runner import describe
    from lora_factory.store.artifacts import open_store

    try:
        spec = DeploySpec.model_validate(json.loads(args.spec.read_text(encoding="utf-8")))
    except ValidationError as err:
        raise SpecError(describe(err, "DeploySpec")) from err
    except (OSError, ValueError) as err:
        msg = f"spec file {args.spec} can't be read as JSON: {err}"
        raise SpecError(msg) from err
    target = open_target(spec.target, settings)
    store = open_store(settings)
    lora, evaluation = store.fetch(spec.lora), store.fetch(spec.evaluation)
    release = checked_release(spec, lora, evaluation)
    plan = target.plan(release.model_copy(update={"folder": evaluation.path}))
    sys.stdout.write(
        f"{release.model.name} {release.model.version} → {target.name}; "
        f"live now: {plan.live or 'none'}\n"
    )
    sys.stdout.writelines(f"  {step}\n" for step in plan.steps)
    return 0
