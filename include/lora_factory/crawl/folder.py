"""Source ``folder``: a user's own images in a folder, with captions beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.images import Dropped
from lora_factory.crawl.own import crawl_shelf
from lora_factory.crawl.report import CrawlReport
from lora_factory.errors import DataError, SpecError

PIECE = 1 << 20


def crawl_folder(spec: CrawlSpec, ctx: StageContext) -> CrawlReport:
    """Read every image under the folder.

    Raises:
        SpecError: the deployment offers no folder of that name, or ``licences`` lacks "own".
        DataError: the folder can't be read, or holds no usable image.
        Interrupted: asked to stop.
    """
    folders = ctx.settings.folders
    if spec.folder not in folders:
        offered = ", ".join(sorted(folders)) or "none; set LORA_FACTORY_FOLDERS=name=path"
        msg = f"unknown folder {spec.folder!r}; the deployment offers: {offered}"
        raise SpecError(msg)
    shelf = FolderShelf("folder", spec.folder, folders[spec.folder], "LORA_FACTORY_FOLDERS")
    return crawl_shelf(spec, ctx, shelf)


class FolderShelf:
    """Files below a folder; hidden ones don't count, linked folders aren't entered.

    Raises:
        DataError: the folder can't be read.
    """

    ahead = 1

    def __init__(self, kind: str, name: str, root: Path, variable: str) -> None:
        self.kind, self.name = kind, name
        root = root.expanduser()
        try:
            next(iter(root.iterdir()), None)
        except OSError as err:
            msg = f"{kind} {name!r} can't be read: {err.strerror}; correct {variable}"
            raise DataError(msg) from err
        self._root = root.resolve()

    def files(self) -> Iterator[tuple[str, int]]:
        """See :class:`~lora_factory.crawl.own.Shelf`."""
        for folder, subfolders, names in os.walk(self._root):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in names:
                if not name.startswith("."):
                    yield Path(folder, name).relative_to(self._root).as_posix(), 0

    def stream(self, path: str) -> Iterator[bytes]:
        """See :class:`~lora_factory.crawl.own.Shelf`."""
        try:
            real = (self._root / path).resolve(strict=True)
            if not real.is_relative_to(self._root):
                raise Dropped(reason="outside_root", detail="a link that leaves the folder")
            if not real.is_file():
                raise Dropped(reason="not_an_image", detail="no regular file")
            with real.open("rb") as stream:
                while piece := stream.read(PIECE):
                    yield piece
        except (OSError, RuntimeError) as err:  # RuntimeError: a loop of links
            raise Dropped(reason="unreadable", detail=type(err).__name__) from err
