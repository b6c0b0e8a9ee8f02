"""``apikey create NAME``, ``apikey list``, ``apikey revoke ID``: keys of the serving app.

A key is shown once, when it is made; the catalog keeps a hash of it.
"""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from lora_factory.contracts.registry import ApiKey, Scope
from lora_factory.contracts.settings import Settings
from lora_factory.errors import SpecError

HELP = "make, list and revoke keys of the serving app"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and show it, once")
    create.add_argument("name", metavar="NAME", help="whose it is")
    create.add_argument(
        "--scope",
        action="append",
        choices=get_args(Scope),
        help="what it may do, once for each; default: generate and feedback",
    )
    create.add_argument("--per-minute", type=int, default=60, help="requests a minute")
    actions.add_parser("list", help="keys there are, without their secrets")
    revoke = actions.add_parser("revoke", help="make a key useless within seconds")
    revoke.add_argument("id", metavar="ID", help="the 12 digits after lf_")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Make, list or revoke.

    Raises:
        SpecError: a value that no key can have, or no key of this id.
        ServiceUnavailable: the catalog did not answer.
    """
    from lora_factory.store.catalog import Catalog

    catalog = Catalog(settings.catalog.get_secret_value())
    if args.action == "list":
        sys.stdout.writelines(f"{line(key)}\n" for key in catalog.api_keys())
    elif args.action == "revoke":
        if not catalog.revoke_api_key(args.id):
            msg = f"no key {args.id!r} is in use; `apikey list` shows them"
            raise SpecError(msg)
    else:
        if not 1 <= args.per_minute <= 100_000 or not 1 <= len(args.name.strip()) <= 100:
            msg = "a key needs a name of 1 to 100 characters and 1 to 100000 requests a minute"
            raise SpecError(msg)
        scopes: list[Scope] = args.scope or ["generate", "feedback"]
        whole, _ = catalog.add_api_key(args.name.strip(), scopes, args.per_minute)
        sys.stdout.write(f"{whole}\n")
    return 0


def line(key: ApiKey) -> str:
    """One line of the list."""
    state = f"  revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
    rights = ",".join(key.scopes)
    made = f"{key.created_at:%Y-%m-%d %H:%M}"
    return f"{key.id}  {key.name}  {rights}  {key.per_minute}/min  made {made}{state}"
