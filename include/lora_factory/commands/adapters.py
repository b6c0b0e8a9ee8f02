"""``adapters list | rollback NAME | retire NAME | download NAME``: what the serving app serves.

Through its API (LORA_FACTORY_SERVE_URL, LORA_FACTORY_SERVE_TOKEN). Nothing is promoted here:
only a run whose gate let it through does that.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ArtifactError

HELP = "list, roll back, retire and download deployed LoRAs"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the live version of each")
    about = {
        "rollback": "return to the version before the live one",
        "retire": "withdraw the live version; nothing takes its place",
        "download": "fetch the .safetensors",
    }
    for action, words in about.items():
        command = actions.add_parser(action, help=words)
        command.add_argument("name", metavar="NAME")
        if action != "rollback":
            command.add_argument("--version", help="another version than the live one")
        if action == "download":
            command.add_argument("--to", type=Path, required=True, help="file to write")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Ask the app.

    Raises:
        ServiceUnavailable, ConfigurationError, ReleaseError: see
            :meth:`lora_factory.deploy.client.ServingApp.call`.
        ArtifactError: what came is damaged.
    """
    from lora_factory.contracts.registry import Deployment
    from lora_factory.contracts.serving import AdapterList
    from lora_factory.deploy.client import ServingApp

    app = ServingApp(settings, patience=5.0)
    if args.action == "list":
        for one in app.read(AdapterList, app.call("GET", "/v1/adapters")).adapters:
            mark = "  taken down" if one.taken_down else ""
            sys.stdout.write(f"{one.name}  {one.version}  {one.base}  {one.overall:.3f}{mark}\n")
        return 0
    path = f"/v1/adapters/{args.name}"
    if args.action == "rollback":
        live = app.read(Deployment, app.call("POST", f"{path}/rollback"))
        sys.stdout.write(f"{live.name}  {live.version}\n")
        return 0
    params = {"version": args.version} if args.version else {}
    if args.action == "retire":
        app.call("DELETE", path, params=params)
        return 0
    answer = app.call("GET", f"{path}/file", params=params)
    if hashlib.sha256(answer.content).hexdigest() != answer.headers.get("x-sha256"):
        msg = f"{args.name} came damaged from {app.url}; try again, or deploy it anew"
        raise ArtifactError(msg)
    part = args.to.with_name(f".{args.to.name}.part")
    part.write_bytes(answer.content)
    part.replace(args.to)
    return 0
