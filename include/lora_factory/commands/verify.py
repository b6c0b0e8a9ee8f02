"""``verify PATH``: where does this come from, and is it as it was made?

An image file: its C2PA manifest and its watermark. A release folder (or its artifact): the
signature over every file. Any other artifact (a dataset, a LoRA): each file against the
manifest; PATH is its folder, its manifest.json, or a URI of the store. Exits 0 if all was
in order, 1 if not, and if there was nothing to verify by.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, FactoryError, SpecError

if TYPE_CHECKING:
    from lora_factory.guard.provenance.checks import Check

HELP = "check where an image, a release or a dataset comes from"
MANIFEST = "manifest.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH", help="image, folder, manifest.json or store URI")
    parser.add_argument("--trust", type=Path, help="PEM certificates whose images are trusted")
    parser.add_argument("--key", type=Path, help="PEM public key or certificate of releases")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Check, and print each check.

    Raises:
        SpecError: there is nothing at the path, or a release is to be checked without a key.
        ConfigurationError: a given key or certificate can't be read.
    """
    from lora_factory.guard.provenance.checks import all_passed

    checks = _checks(args, settings)
    passed = all_passed(checks)
    for check in checks:
        sys.stdout.write(f"{check}\n")
    sys.stdout.write(f"{args.path}: {'verified' if passed else 'NOT verified'}\n")
    return 0 if passed else 1


def _checks(args: argparse.Namespace, settings: Settings) -> tuple[Check, ...]:
    if "://" in args.path:
        return _stored(args, settings)
    path = Path(args.path)
    if path.name == MANIFEST:
        path = path.parent
    if path.is_file():
        return _image(path, args.trust, settings)
    if not path.is_dir():
        msg = f"there is nothing at {path}; give an image, a folder or a manifest.json"
        raise SpecError(msg)
    if (path / MANIFEST).is_file():
        return _artifact(path, args, settings)
    return _release(path, args, settings)


def _image(path: Path, trust: Path | None, settings: Settings) -> tuple[Check, ...]:
    from lora_factory.guard.provenance.marks import watermark_key
    from lora_factory.guard.provenance.verify import verify_image
    from lora_factory.guard.provenance.watermark import Watermark

    try:
        anchors = trust.read_text(encoding="ascii") if trust else None
        data = path.read_bytes()
    except (OSError, UnicodeDecodeError) as err:
        msg = f"{path} or the trust anchors can't be read: {err}"
        raise ConfigurationError(msg) from err
    if anchors is not None and "BEGIN CERTIFICATE" not in anchors:
        msg = f"{trust} holds no certificate in PEM; give trust.pem"
        raise ConfigurationError(msg)
    return verify_image(data, anchors, Watermark(watermark_key(settings)))


def _release(folder: Path, args: argparse.Namespace, settings: Settings) -> tuple[Check, ...]:
    from lora_factory.guard.provenance.keys import configured_key, read_public_key
    from lora_factory.guard.provenance.verify import verify_release

    if args.key is not None:
        return verify_release(folder, read_public_key(args.key))
    key = configured_key(settings)
    if key is None:
        msg = "a release is checked by its maker's public key: give --key signing.pub"
        raise SpecError(msg)
    return verify_release(folder, key.public_pem.encode())


def _artifact(folder: Path, args: argparse.Namespace, settings: Settings) -> tuple[Check, ...]:
    from lora_factory.guard.provenance.verify import licences_of, verify_artifact

    manifest, checks = verify_artifact(folder)
    if manifest is None or not checks[-1].passed:
        return checks
    if manifest.kind == "dataset":
        return (*checks, licences_of(folder, manifest))
    if manifest.kind == "release":
        return (*checks, *_release(folder / manifest.attempt, args, settings))
    return checks


def _stored(args: argparse.Namespace, settings: Settings) -> tuple[Check, ...]:
    """Through the store, which verifies every file as it fetches it."""
    from lora_factory.guard.provenance.checks import Check
    from lora_factory.store.artifacts import open_store

    try:
        found = open_store(settings).fetch(args.path)
    except FactoryError as err:
        if err.transient:
            raise
        return (Check("files", passed=False, detail=str(err)),)
    detail = f"all {len(found.manifest.files)} as the manifest {found.sha256} names them"
    checks = (Check("files", passed=True, detail=detail),)
    if found.manifest.kind != "release":
        return checks
    return (*checks, *_release(found.path, args, settings))
