"""A folder signed as a whole, by OpenSSF Model Signing with the operator's own key.

``model.sig`` is a Sigstore bundle over every other file's sha256 (an in-toto statement). A
changed, missing or further file fails. No certificate authority and no log are asked.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature

from lora_factory.errors import ConfigurationError
from lora_factory.guard.provenance.checks import Check
from lora_factory.guard.provenance.keys import SigningKey, fingerprint

SIGNATURE = "model.sig"


def sign_folder(folder: Path, key: SigningKey) -> Path:
    """Write ``model.sig`` over every file of the folder; returns its path.

    Raises:
        ConfigurationError: the key can't sign.
    """
    from model_signing import hashing, signing

    signature = folder / SIGNATURE
    contents = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    config = signing.Config().set_hashing_config(contents)
    try:
        config.use_elliptic_key_signer(private_key=key.path).sign(folder, signature)
    except (OSError, ValueError) as err:
        msg = f"{folder} can't be signed with {key.path}: {_first_line(err)}; correct the key"
        raise ConfigurationError(msg) from err
    return signature


def verify_folder(folder: Path, public_pem: bytes) -> Check:
    """Check ``model.sig`` against every file of the folder and against a public key."""
    from model_signing import hashing, verifying

    name, signature = "signature", folder / SIGNATURE
    if not signature.is_file():
        return Check(name, passed=False, detail=f"{folder} has no {SIGNATURE}: it is not signed")
    signer = signed_by(folder)
    if signer and signer != fingerprint(public_pem):
        return Check(name, passed=False, detail=f"signed by key {signer[:16]}…, not by the given")
    contents = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            public = Path(scratch) / "key.pem"  # the library reads keys from files only
            public.write_bytes(public_pem)
            config = verifying.Config().set_hashing_config(contents)
            config.use_elliptic_key_verifier(public_key=public).verify(folder, signature)
    except InvalidSignature:
        return Check(name, passed=False, detail="made by another key, or changed since")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as err:
        # The file may hold anything; whatever the library stumbles over is no valid signature.
        return Check(name, passed=False, detail=_first_line(err))
    files = sum(path.is_file() for path in folder.rglob("*")) - 1
    return Check(name, passed=True, detail=f"{files} files, key {fingerprint(public_pem)[:16]}…")


def signed_by(folder: Path) -> str:
    """Fingerprint that a signature claims (not verified); empty: none, or unreadable."""
    try:
        bundle = json.loads((folder / SIGNATURE).read_bytes())
        return str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (OSError, ValueError, TypeError, LookupError):
        return ""


def _first_line(err: BaseException) -> str:
    return (str(err) or type(err).__name__).split("\n", 1)[0]
