"""Pictures kept on disk by what decides them, so that none is paid for twice.

An entry is a PNG named by the sha256 of base, adapter, prompt, seed, steps, guidance, size
and code. Files appear whole (written aside and renamed), so several processes may share a
folder; one that can't be read any more is made anew.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

log = logging.getLogger(__name__)
MAX_BYTES = 512 * 2**20


class PictureCache:
    """A folder of pictures by key (hex digits).

    Args:
        folder: made when first written to.
        max_bytes: :meth:`trim` keeps the folder below this, oldest use first to go.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def get(self, key: str, side: int) -> Picture | None:
        """The picture, or None where it isn't there, can't be read or has another size.

        Args:
            key: its name.
            side: pixels its width and height must have.
        """
        file = self._file(key)
        try:
            with Image.open(file, formats=("PNG",)) as opened:
                if opened.size != (side, side):
                    log.warning("kept picture %s is %s px; making it anew", key, opened.size)
                    return None
                picture = opened.convert("RGB")
            os.utime(file)
        except FileNotFoundError:
            return None
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as err:
            log.warning("kept picture %s can't be read (%s); making it anew", key, err)
            return None
        return picture

    def put(self, key: str, picture: Picture) -> None:
        """Keep a picture."""
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{key}.{uuid4().hex}.part")
        picture.save(part, format="PNG")
        part.replace(file)

    def trim(self) -> None:
        """Delete what was used longest ago until the folder fits ``max_bytes``."""
        entries = []
        for file in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # another process trims too
                stat = file.stat()
                entries.append((stat.st_mtime, stat.st_size, file))
        total = sum(size for _, size, _ in entries)
        for _, size, file in sorted(entries):
            if total <= self.max_bytes:
                break
            file.unlink(missing_ok=True)
            total -= size

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.png"
