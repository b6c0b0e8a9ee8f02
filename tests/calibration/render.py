"""Makes ``data/<style>`` from unpacked npm packages, but for those there are; results committed.

::

    npm pack @iconify-json/mdi …       # each package of calibration_styles.STYLES
    pip install resvg-py               # in a throwaway environment
    python tests/calibration/render.py folder-with-the-unpacked-packages
"""

from __future__ import annotations

import io
import json
import random
import re
import sys
from pathlib import Path

import resvg_py
from calibration_styles import COLUMNS, DATA, SIDE, STYLES, Style
from PIL import Image

from lora_factory.models.profiles import ASSETS

COUNT = 120
DRAWN = 256  # drawn large, then reduced: keeps thin lines that direct drawing loses
ALIKE = 6  # icons whose names begin with one word, at most
VARIANT = re.compile(r"-(outline|filled|fill|off|variant|alt|light|thin|bold|duotone)(-|$)")


def main() -> None:
    for style in STYLES:
        if (DATA / style.name).exists():
            continue
        package = Path(sys.argv[1]) / style.package
        shapes = json.loads((package / "icons.json").read_text(encoding="utf-8"))
        info = json.loads((package / "info.json").read_text(encoding="utf-8"))
        names = choose(style, list(shapes["icons"]))
        rows = -(-len(names) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE), "white")
        for place, name in enumerate(names):
            icon = shapes["icons"][name]
            size = [icon.get(side, shapes.get(side, 16)) for side in ("width", "height")]
            at = (place % COLUMNS * SIDE, place // COLUMNS * SIDE)
            sheet.paste(draw(icon["body"], *size), at)
        folder = DATA / style.name
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(folder / "sheet.png", optimize=True)
        about = {
            "source": f"npm @iconify-json/{style.package} {version(package)}",
            "author": info["author"]["name"],
            "licence": info["license"]["spdx"],
            "subjects": [words(style, name) for name in names],
        }
        (folder / "icons.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"{style.name}: {len(names)}\n")


def version(package: Path) -> str:
    return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])


def choose(style: Style, names: list[str]) -> list[str]:
    """``COUNT`` names that say something, shuffled."""
    known = json.loads((ASSETS / "emoji-base/tokenizer/tokenizer.json").read_text())
    vocabulary = known["model"]["vocab"]
    random.Random(7).shuffle(names)
    begun: dict[str, int] = {}
    chosen = []
    for name in names:
        if not name.endswith(style.suffix) or (not style.suffix and VARIANT.search(name)):
            continue
        parts = words(style, name).split()
        longest = 3 if style.plain else 4
        if len(parts) > longest or not all(part.isalpha() and len(part) > 2 for part in parts):
            continue
        if style.plain and not all(f"{part}</w>" in vocabulary for part in parts):
            continue
        begun[parts[0]] = begun.get(parts[0], 0) + 1
        if begun[parts[0]] <= (1 if style.plain else ALIKE):
            chosen.append(name)
    return chosen[:COUNT]


def words(style: Style, name: str) -> str:
    return name.removesuffix(style.suffix).replace("-", " ")


def draw(body: str, width: int, height: int) -> Image.Image:
    """SVG body → 64×64 RGB; what is not coloured is black, the ground is white."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" color="#000">{body}</svg>'
    )
    size = {"width": DRAWN} if width >= height else {"height": DRAWN}
    drawn = resvg_py.svg_to_bytes(svg_string=svg, background="#fff", **size)
    with Image.open(io.BytesIO(bytes(drawn))) as picture:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        whole = Image.new("RGB", (SIDE, SIDE), "white")
        whole.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        return whole


if __name__ == "__main__":
    main()
