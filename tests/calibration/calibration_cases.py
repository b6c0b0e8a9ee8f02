"""What is judged: every adapter on the dataset of a style, sound or sabotaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calibration_styles import STYLES, Style, Use

ADAPTERS = Path(__file__).parent / "adapters"
SABOTAGES = ("zeroed", "rate", "foreign", "memorised", "overtrained", "shuffled")


@dataclass(frozen=True)
class Case:
    """One adapter on one style. ``kind`` is ``good`` or one of ``SABOTAGES``."""

    style: Style
    kind: str
    file: Path

    @property
    def name(self) -> str:
        return f"{self.style.name} {self.kind} ({self.file.parent.name}/{self.file.stem})"

    @property
    def good(self) -> bool:
        return self.kind == "good"


def cases(use: Use) -> Iterator[Case]:
    """All cases of the styles that are for one use, that have a file.

    ``foreign`` adapters are sound ones of other styles of the same group (a witness's: of the
    reported ones), so that no reported style enters the fit.
    """
    group = [style for style in STYLES if style.use == use]
    for style in group:
        folder = ADAPTERS / style.name
        for file in sorted(folder.glob("good-*.safetensors")):
            yield Case(style, "good", file)
        yield Case(style, "zeroed", folder / "good-0.safetensors")
        for other in style.foreign:
            yield Case(style, "foreign", ADAPTERS / other / "good-0.safetensors")
        for kind in ("rate", "memorised", "overtrained", "shuffled"):
            for file in sorted(folder.glob(f"{kind}*.safetensors")):
                yield Case(style, kind, file)
