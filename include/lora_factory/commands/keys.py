"""``keys make FOLDER``: a key pair that signs releases and images, with its certificates.

Point LORA_FACTORY_SIGNING_KEY at FOLDER/signing.key; give signing.pub and trust.pem to whoever
verifies. The private key is readable by its owner alone and leaves the folder never.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora_factory.contracts.settings import Settings

HELP = "make keys that sign releases and images"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["make"])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write them")
    parser.add_argument("--organisation", default="LoRA Factory", help="name in the certificates")


def run(args: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001  (one action)
    """Make them.

    Raises:
        ConfigurationError: the folder has a key already, or can't be written.
    """
    from lora_factory.guard.provenance.keys import make_keys

    key = make_keys(args.folder, args.organisation)
    sys.stdout.write(
        f"LORA_FACTORY_SIGNING_KEY={key.path.resolve()}\n"
        f"# public key {key.path.with_name('signing.pub')}, sha256 {key.fingerprint}\n"
        f"# trust anchor of images: {key.path.with_name('trust.pem')}\n"
    )
    return 0
