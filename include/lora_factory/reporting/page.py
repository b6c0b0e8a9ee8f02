"""HTML files that open without a server and can't run a script.

Captions come from crawled pages: they are escaped, cut, and stripped of what is not printed
(control characters, direction overrides). Pictures are encoded anew and lie in the file. A
Content-Security-Policy allows nothing but those and the one style sheet.
"""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image as PilImage

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = Path(__file__).parent
LARGEST = 256
"""Side of a picture in the page, pixels; larger ones are made smaller."""
LOSSLESS = 128
"""Side up to which pictures are kept as PNG."""
LONGEST = 600
"""Characters of any text in the page."""


def render(folder: Path, template: str, **values: Any) -> str:
    """Fill a template of a stage's folder; see the module's docstring for what is guaranteed.

    Templates extend ``page.html.j2``, the layout beside this module.
    """
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"picture_uri": picture_uri, "sheet_uri": sheet_uri}
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704  (a file of this package)
        style_hash=f"sha256-{digest}",
        **values,
    )


def picture_uri(image: Image) -> Markup:
    """A picture encoded anew, at most ``LARGEST`` pixels wide and high."""
    picture = image.convert("RGB")
    picture.thumbnail((LARGEST, LARGEST), PilImage.Resampling.LANCZOS)
    return _uri(picture, "PNG" if max(picture.size) <= LOSSLESS else "JPEG")


def sheet_uri(image: Image) -> Markup:
    """A drawn sheet of pictures and labels, at its own size."""
    return _uri(image.convert("RGB"), "PNG")


def _uri(picture: Image, kind: str) -> Markup:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, optimize=True, quality=88)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Markup(f"data:image/{kind.lower()};base64,{encoded}")  # noqa: S704  (base64 alone)


def _printable(value: Any) -> Any:
    """Text of a template's expression without what is not printed, at most ``LONGEST`` long."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = "".join(letter if letter.isprintable() else " " for letter in value[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
