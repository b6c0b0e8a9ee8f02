"""Makes ``gallery/icons/*.png`` from an unpacked npm package; run once, results committed.

::

    npm pack @iconify-json/fluent-emoji-high-contrast && tar xzf *.tgz
    pip install resvg-py            # in a throwaway environment: the factory needs none of it
    python -m lora_factory.demo.render_gallery package

``gallery/icons.json`` says which icons; each is drawn black on white at 256 px and reduced
to 64 px, because reducing (Lanczos) keeps thin lines that direct drawing loses.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
from pathlib import Path

from PIL import Image

from lora_factory.errors import DataError

log = logging.getLogger(__name__)

GALLERY = Path(__file__).resolve().parent / "gallery"
DRAWN = 256  # pixels a side
STORED = 64


def render(body: str, view: int) -> Image.Image:
    """SVG body with a square view box of ``view`` units → 64×64 RGB, black on white."""
    import resvg_py  # type: ignore[import-not-found, unused-ignore]

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {view} {view}" '
        f'width="{view}" height="{view}" color="#000">{body}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN, height=DRAWN, background="#fff")
    with Image.open(io.BytesIO(bytes(drawn))) as picture:
        return picture.convert("RGB").resize((STORED, STORED), Image.Resampling.LANCZOS)


def render_all(package: Path, target: Path) -> int:
    """Draw every icon that ``icons.json`` names into ``target``; returns how many.

    Raises:
        DataError: the package lacks an icon, or is not the unpacked npm package.
    """
    source = package / "icons.json"
    if not source.is_file():
        msg = f"{source} does not exist; give the folder that the npm package unpacks to"
        raise DataError(msg)
    shapes = json.loads(source.read_text(encoding="utf-8"))
    wanted = json.loads((GALLERY / "icons.json").read_text(encoding="utf-8"))["icons"]
    missing = [icon["name"] for icon in wanted if icon["name"] not in shapes["icons"]]
    if missing:
        msg = f"{source} has no {', '.join(missing)}; take version 1.2.6 of the package"
        raise DataError(msg)
    target.mkdir(parents=True, exist_ok=True)
    for icon in wanted:
        picture = render(shapes["icons"][icon["name"]]["body"], shapes["width"])
        picture.save(target / f"{icon['name']}.png", optimize=True)
    return len(wanted)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lora_factory.demo.render_gallery")
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%d icons drawn", render_all(given.package, GALLERY / "icons"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
