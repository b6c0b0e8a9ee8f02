"""Marks on every image that leaves: a signed manifest and a watermark.

EU AI Act, article 50(2), applies from 2 August 2026: output is marked in a machine-readable
format and detectable as artificially generated. The code of practice of June 2026 asks for
both signed metadata and an imperceptible watermark. Pictures with a side below 256 pixels can't
hold the watermark; they get the manifest only, and the answer says so.
"""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.settings import Settings
from lora_factory.guard.provenance.c2pa import Facts, ManifestWriter
from lora_factory.guard.provenance.keys import (
    PRIVATE,
    SigningKey,
    configured_key,
    load_key,
    make_keys,
)
from lora_factory.guard.provenance.watermark import ID_DIGITS, MIN_SIDE, PUBLIC_KEY, Watermark

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
C2PA, WATERMARK = "c2pa", "watermark"


class ImageMarker:
    """Marks images with one key pair and one watermark key; for use from any thread.

    ``key_note`` says in words which key it is.
    """

    def __init__(
        self, key: SigningKey, watermark_key: bytes = PUBLIC_KEY, origin: str = "configured"
    ) -> None:
        self._manifests, self._watermark = ManifestWriter(key), Watermark(watermark_key)
        self.key_note = f"{origin}, sha256 {key.fingerprint[:16]}"

    def mark_image(self, image: Image, facts: Facts) -> bytes:
        """The image as PNG with its marks (:func:`marks_of`).

        Raises:
            ConfigurationError: it can't be marked, and must not leave.
        """
        ident = None
        if WATERMARK in marks_of(image.size):
            ident = watermark_id(facts)
            image = self._watermark.embed(image, ident)
        png = io.BytesIO()
        image.save(png, format="PNG")
        return self._manifests.sign(png.getvalue(), facts, ident)


def marks_of(size: tuple[int, int]) -> tuple[str, ...]:
    """Marks that a picture of a size (pixels) gets."""
    return (C2PA, WATERMARK) if min(size) >= MIN_SIDE else (C2PA,)


def watermark_id(facts: Facts) -> str:
    """First 24 bits of the LoRA's sha256; of the base's revision where no LoRA drew."""
    whole = facts.lora_sha256 or hashlib.sha256(facts.base_revision.encode()).hexdigest()
    return whole[:ID_DIGITS]


def watermark_key(settings: Settings) -> bytes:
    """``LORA_FACTORY_WATERMARK_KEY``, or the public key where none is set."""
    return settings.watermark_key.get_secret_value().encode() or PUBLIC_KEY


def image_marker(settings: Settings, own: Path) -> ImageMarker:
    """A marker with the configured key, or with one of the app's own.

    Marking is a duty: an app without a configured key makes itself one, once, and says so.

    Args:
        settings: ``signing_key`` and ``watermark_key`` are used.
        own: folder for a key that has to be made.

    Raises:
        ConfigurationError: a key is configured, or was made before, and can't be used.
    """
    key, origin = configured_key(settings), "configured"
    if key is None:
        origin = "self-made"
        key = load_key(own / PRIVATE) if (own / PRIVATE).exists() else make_keys(own)
        log.warning(
            "LORA_FACTORY_SIGNING_KEY is not set: images are signed with a self-made key; "
            "readers trust it only with %s",
            own / "trust.pem",
        )
    return ImageMarker(key, watermark_key(settings), origin)
