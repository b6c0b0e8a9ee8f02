"""The icons: drawn at 128 px, reduced to 64, on white, captioned with their names."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lora_factory.contracts.progress import Progress
from lora_factory.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
STYLES = {"noto": "noto", "noto-v1": "blob", "fluent-emoji-flat": "fluent", "fxemoji": "fx"}
"""Package → the word for its style."""
DRAWN, STORED = 128, 64
BLANK = 4.0  # standard deviation of the pixels: white shapes on white
HELD_OUT = 20
"""One name of so many is held out of training, in every set alike."""
# Skin tones (named in full, or by fluent's endings), flags, letters and digits, arrows and clocks,
# and the many variants of people: they would be most of the data and are not what is asked for.
LEFT_OUT = re.compile(
    r"skin-tone|-(dark|light|medium|medium-dark|medium-light)$|^flag|regional|^keycap|^letter"
    r"|latin|arrow|clock|^(man|woman|men|women|person|people|mx|couple|family|kiss)\b.*-"
    r"|holding|^[0-9a-z]$"
)


@dataclass(frozen=True)
class Icons:
    """n icons: ``pixels`` n×3×64×64 uint8, what they show, and the word for their style."""

    pixels: Tensor
    names: tuple[str, ...]
    styles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, wanted: list[int]) -> Icons:
        """Some of them, in the order asked for."""
        names, styles = (tuple(of[at] for at in wanted) for of in (self.names, self.styles))
        return Icons(self.pixels[wanted], names, styles)

    def split(self) -> tuple[Icons, Icons]:
        """For training, and held out: by name, so that no set tells of another's."""
        held = [at for at, name in enumerate(self.names) if is_held_out(name)]
        kept = sorted(set(range(len(self))) - set(held))
        return self.select(kept), self.select(held)

    def of(self, *styles: str) -> Icons:
        """Those of some styles."""
        return self.select([at for at, style in enumerate(self.styles) if style in styles])


def is_held_out(name: str) -> bool:
    """Whether icons of this name are for measuring only."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


def load_icons(packages: Path, cache: Path) -> Icons:
    """Read the unpacked packages, draw their icons once, and keep them in ``cache``.

    Raises:
        DataError: a package is missing or isn't an unpacked iconify package.
    """
    from safetensors import safe_open

    if not cache.is_file():
        _draw_all(packages, cache)
    with safe_open(str(cache), framework="pt") as opened:
        told = json.loads((opened.metadata() or {})["icons"])
        return Icons(opened.get_tensor("pixels"), tuple(told["names"]), tuple(told["styles"]))


def _draw_all(packages: Path, cache: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    bodies = {package: _bodies(packages / package) for package in STYLES}
    words = _words(name for package in STYLES if package != "fxemoji" for name in bodies[package])
    names, styles, pixels = [], [], []
    progress = Progress("icons", sum(map(len, bodies.values())), "icons")
    for package, found in bodies.items():
        for name, (body, width, height) in found.items():
            spelled = split_name(name, words) if package == "fxemoji" else name.replace("-", " ")
            progress.advance()
            drawn = np.asarray(_draw(body, width, height)) if spelled else None
            if drawn is not None and drawn.std() > BLANK:
                names.append(spelled)
                styles.append(STYLES[package])
                pixels.append(drawn)
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    part = cache.with_suffix(".part")
    told = json.dumps({"names": names, "styles": styles})
    save_file({"pixels": stacked}, part, metadata={"icons": told})
    part.replace(cache)


def _bodies(package: Path) -> dict[str, tuple[str, int, int]]:
    """Name → SVG body and size, without those left out."""
    try:
        read = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        msg = f"{package}/icons.json can't be read; unpack the npm package there"
        raise DataError(msg) from err
    width, height = read.get("width", 16), read.get("height", 16)
    return {
        name: (icon["body"], icon.get("width", width), icon.get("height", height))
        for name, icon in read["icons"].items()
        if not icon.get("hidden") and LEFT_OUT.search(name) is None
    }


def _draw(body: str, width: int, height: int) -> Image.Image:
    import resvg_py  # type: ignore[import-not-found, unused-ignore]

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{body}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN, background="#fff")
    ground = Image.new("RGB", (DRAWN, DRAWN), "#fff")
    with Image.open(io.BytesIO(bytes(drawn))) as picture:
        inside = picture.convert("RGB")
        inside.thumbnail((DRAWN, DRAWN))
        ground.paste(inside, ((DRAWN - inside.width) // 2, (DRAWN - inside.height) // 2))
    return ground.resize((STORED, STORED), Image.Resampling.LANCZOS)


def _words(names: Iterable[str]) -> frozenset[str]:
    return frozenset(word for name in names for word in name.split("-") if len(word) > 1)


def split_name(name: str, words: frozenset[str]) -> str:
    """``blackdownpointingbackhand`` → its words, the fewest; empty where others know them not."""
    best: list[list[str] | None] = [[]]
    for end in range(1, len(name) + 1):
        found: list[str] | None = None
        for start in range(end):
            before, word = best[start], name[start:end]
            if before is None or word not in words:
                continue
            if found is None or len(before) + 1 < len(found):
                found = [*before, word]
        best.append(found)
    return " ".join(best[-1] or [])
