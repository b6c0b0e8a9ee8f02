"""``deploy-rollback --target aws-lambda --name icons``: users get the version before, in a cloud.

The serving app has ``adapters rollback`` for it, a hub its tags.
"""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import Target

HELP = "return to the version before the live one, on a target in a cloud"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    clouds = [name for name in get_args(Target) if name not in {"local", "hub"}]
    parser.add_argument("--target", required=True, choices=clouds, help="where")
    parser.add_argument("--name", required=True, help="adapter name that users ask for")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Move the traffic, print the version.

    Raises:
        ReleaseError: there is no earlier version.
        ConfigurationError, ServiceUnavailable: the target can't be asked.
    """
    from lora_factory.deploy.clouds import cloud_target

    version = cloud_target(args.target, settings).back(args.name)
    sys.stdout.write(f"{args.name} on {args.target}: {version} is live again\n")
    return 0
