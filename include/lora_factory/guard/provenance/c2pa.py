"""C2PA manifests (Content Credentials): what made an image, signed and inside its PNG.

The manifest holds one ``c2pa.created`` action with the source type that means "made by a
trained model", the software, and an assertion of our own that names model, version and LoRA
hash. Prompt, seed and user are left out: an image must not tell what its maker asked for.

A reader that doesn't have the issuing certificate among its trust anchors finds the manifest
valid and its signer untrusted; that is what a self-made certificate can give. No
time-stamping authority is asked, so that this works offline.
"""

from __future__ import annotations

import io
import json
import threading
from dataclasses import dataclass, field
from typing import Any

import c2pa

from lora_factory import __version__
from lora_factory.contracts.base import Contract
from lora_factory.errors import ConfigurationError
from lora_factory.guard.provenance.keys import SigningKey

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
GENERATION = "org.lora-factory.generation"
SOFTWARE = {"name": "LoRA Factory", "version": __version__}
# No thumbnail: it would be larger than all else. Not verified after signing: the tests do.
WRITING = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
# An image may name an address to fetch its manifest from; nobody's bytes make us call out.
READING = {"verify": {"verify_trust": True, "ocsp_fetch": False, "remote_manifest_fetch": False}}


class Facts(Contract):
    """What a manifest tells of an image. Without an adapter the base alone drew it."""

    base: str
    base_revision: str
    adapter: str | None = None
    version: str | None = None
    lora_sha256: str | None = None


@dataclass(frozen=True)
class Credentials:
    """What was found in an image's bytes.

    ``state`` is C2PA's: Invalid (something doesn't match), Valid (signer unknown), Trusted.
    """

    state: str
    signer: str = ""
    generated: bool = False
    generation: dict[str, Any] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


class ManifestWriter:
    """Signs images with one key; for use from any thread.

    Raises:
        ConfigurationError: C2PA refuses the key or its certificates.
    """

    def __init__(self, key: SigningKey) -> None:
        info = c2pa.C2paSignerInfo(
            c2pa.C2paSigningAlg.ES256, key.chain_pem.encode(), key.private_pem.encode(), None
        )
        try:
            signer = c2pa.Signer.from_info(info)
            self._context = c2pa.Context.from_dict(WRITING, signer=signer)
        except c2pa.C2paError as err:
            msg = f"{key.path} and its chain.pem can't sign images: {err}; make keys anew"
            raise ConfigurationError(msg) from err
        self._lock = threading.Lock()

    def sign(self, png: bytes, facts: Facts, watermark: str | None) -> bytes:
        """The same PNG with a manifest.

        Args:
            png: the image.
            facts: what drew it.
            watermark: the id in its pixels; None: it has no watermark.

        Raises:
            ConfigurationError: it can't be signed; the image must not leave.
        """
        signed = io.BytesIO()
        try:
            with (
                self._lock,
                c2pa.Builder(_definition(facts, watermark), context=self._context) as builder,
            ):
                builder.sign("image/png", io.BytesIO(png), signed)
        except c2pa.C2paError as err:
            msg = f"an image could not be signed: {err}; it was held back"
            raise ConfigurationError(msg) from err
        return signed.getvalue()


def read_credentials(data: bytes, anchors: str | None = None) -> Credentials | None:
    """Read and verify the manifest in an image; None where there is none.

    Args:
        data: bytes of the image file.
        anchors: PEM certificates whose signers are trusted.
    """
    settings: dict[str, Any] = dict(READING)
    if anchors:
        settings["trust"] = {"trust_anchors": anchors}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(None, io.BytesIO(data), context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except (c2pa.C2paError, ValueError) as err:
        return Credentials("Invalid", failures=(str(err).split("\n", 1)[0],))
    return _credentials(store)


def _definition(facts: Facts, watermark: str | None) -> dict[str, Any]:
    actions: list[dict[str, Any]] = [
        {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": SOFTWARE}
    ]
    generation = facts.model_dump(exclude_none=True)
    if watermark is not None:
        actions.append({"action": "c2pa.watermarked.unbound", "softwareAgent": SOFTWARE})
        generation["watermark"] = watermark
    return {
        "claim_generator_info": [SOFTWARE],
        "title": "generated image",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": GENERATION, "data": generation},
        ],
    }


def _credentials(store: dict[str, Any]) -> Credentials:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    found = {entry.get("label"): entry.get("data") for entry in manifest.get("assertions", ())}
    actions = (found.get("c2pa.actions.v2") or {}).get("actions", ())
    results = store.get("validation_results", {}).get("activeManifest", {})
    signature = manifest.get("signature_info", {})
    generation = found.get(GENERATION)
    return Credentials(
        state=str(store.get("validation_state", "Invalid")),
        signer=str(signature.get("common_name") or signature.get("issuer", "")),
        generated=any(
            action.get("action") == "c2pa.created"
            and action.get("digitalSourceType") == SOURCE_TYPE
            for action in actions
        ),
        generation=generation if isinstance(generation, dict) else {},
        failures=tuple(str(entry.get("code")) for entry in results.get("failure", ())),
    )
