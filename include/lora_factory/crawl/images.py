"""Bytes → a stored image, once by content; or the reason why not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue

from lora_factory.imaging.decode import ImageRejected, sniff
from lora_factory.imaging.sandbox import DecodingProcess

MAX_BYTES = 25 * 1024 * 1024
MIN_SIDE = 16  # pixels; below are spacers, tracking pixels and bullets


class Dropped(Exception):
    """An image is not kept; ``reason`` is the code for the audit."""

    def __init__(self, *, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class CheckedImage:
    """An image that decodes."""

    data: bytes
    sha256: str
    file_name: str
    width: int
    height: int
    perceptual_hash: str


class ImageChecker:
    """Decodes images in processes of their own.

    Args:
        decoders: processes at most; one is started when all others are at work.
    """

    def __init__(self, decoders: int = 1) -> None:
        self._decoders = [DecodingProcess() for _ in range(decoders)]
        self._idle: LifoQueue[DecodingProcess] = LifoQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)

    def check(self, data: bytes) -> CheckedImage:
        """Look at the bytes; may run in several threads.

        Raises:
            Dropped: ``too_large``, ``too_small`` or a reason of the decoder.
        """
        if len(data) > MAX_BYTES:
            raise Dropped(reason="too_large", detail=f"{len(data)} bytes, at most {MAX_BYTES}")
        decoder = self._idle.get()
        try:
            found = decoder.measure(data)
        except ImageRejected as err:
            raise Dropped(reason=err.reason, detail=str(err)) from err
        finally:
            self._idle.put(decoder)
        if min(found.width, found.height) < MIN_SIDE:
            raise Dropped(reason="too_small", detail=f"{found.width}×{found.height} pixels")
        digest = hashlib.sha256(data).hexdigest()
        name = f"images/{digest}.{sniff(data)}"
        return CheckedImage(data, digest, name, found.width, found.height, found.hash)

    def close(self) -> None:
        """No more images are checked."""
        for decoder in self._decoders:
            decoder.close()


class ImageStore:
    """``images/<sha256>.<ext>`` under ``out``, at most ``limit`` of them, for one process."""

    def __init__(self, out: Path, limit: int) -> None:
        self._out, self._limit = out, limit
        (out / "images").mkdir(parents=True, exist_ok=True)
        self._seen: dict[str, str] = {}
        self._checker = ImageChecker()

    def check(self, data: bytes) -> CheckedImage:
        """Look at the bytes.

        Raises:
            Dropped: ``exact_duplicate``, or as :meth:`ImageChecker.check`.
        """
        self._refuse_duplicate(hashlib.sha256(data).hexdigest())  # before it costs a decoding
        return self._checker.check(data)

    def close(self) -> None:
        """No more images are checked."""
        self._checker.close()

    def keep(self, image: CheckedImage, url: str) -> None:
        """Write an image.

        Raises:
            Dropped: ``exact_duplicate``, ``over_budget``.
        """
        self._refuse_duplicate(image.sha256)
        if len(self._seen) >= self._limit:
            raise Dropped(reason="over_budget", detail=f"{self._limit} images were wanted")
        self._seen[image.sha256] = url
        (self._out / image.file_name).write_bytes(image.data)

    def _refuse_duplicate(self, digest: str) -> None:
        if (first := self._seen.get(digest)) is not None:
            raise Dropped(reason="exact_duplicate", detail=f"same bytes as {first}")
