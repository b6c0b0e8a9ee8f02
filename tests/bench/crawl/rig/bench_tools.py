"""What the crawl benches share: tools of the other side in folders of their own, and figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE.parents[3] / "build" / "bench-crawl"


def installed(name: str, packages: Sequence[str]) -> Path:
    """A folder with packages that only a bench needs, beside the environment's own."""
    folder = BUILD / name
    if not folder.exists():
        _uv("pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages)
    return folder


def environment(name: str, packages: Sequence[str]) -> Path:
    """Python of a virtual environment of its own."""
    python = BUILD / name / "bin" / "python"
    if not python.exists():
        _uv("venv", "--quiet", "--python", sys.executable, str(BUILD / name))
        _uv("pip", "install", "--quiet", "--python", str(python), *packages)
    return python


def _uv(*arguments: str) -> None:
    tool = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    subprocess.run([tool, *arguments], check=True)


def tell(
    key: str, value: float, unit: str, goal: float, against: str, better: str = "higher"
) -> None:
    """Print a figure for tests/bench/run.py."""
    figure: dict[str, Any] = {
        "value": round(value, 3),
        "unit": unit,
        "goal": goal,
        "better": better,
        "against": against,
        "command": "make bench ONLY=crawl",
    }
    sys.stdout.write(json.dumps({key: figure}) + "\n")
    sys.stdout.flush()
