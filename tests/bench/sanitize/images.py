"""sanitize.images_vs_*: pictures a second on one core, beside img2dataset's resize and
cleanvision's checks on the same files.

Ours decodes, crops, measures, normalises to PNG and makes both fingerprints (``items.admit``).
img2dataset's ``Resizer`` only reduces and encodes a JPEG, so it is compared with ours where both
reduce the shorter side to 256 px (its mode ``keep_ratio``), and, as the stage does by default, with
the whole picture written without loss (``images_whole_*``). cleanvision only measures (its checks
of single images and exact and near duplicates). Both run in a virtual environment of their own
under ``build/``, on one thread, on 200 made photographs of 640×480. All take turns, and each one's
best of three rounds counts, by the time of its process. Standard error says what each step of ours
takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include")]

from lora_factory.contracts.records import RawRecord  # noqa: E402
from lora_factory.contracts.specs import SanitizeSpec  # noqa: E402
from lora_factory.imaging.borders import crop_bars  # noqa: E402
from lora_factory.imaging.decode import decode  # noqa: E402
from lora_factory.imaging.hashes import perceptual_hash, thumbnail  # noqa: E402
from lora_factory.imaging.png import write_png  # noqa: E402
from lora_factory.imaging.quality import MEASURED_SIDE, measure, reduced  # noqa: E402
from lora_factory.sanitize.items import Admitted, Source, admit  # noqa: E402

COUNT, SIZE, ROUNDS = 200, (640, 480), 3
VENV = ROOT / "build" / "bench-images"
PACKAGES = ("cleanvision==0.3.7", "img2dataset==1.47.0")
IMG2DATASET = """
import io, sys, time
from pathlib import Path
import cv2
from img2dataset.resizer import Resizer
cv2.setNumThreads(1)
resizer = Resizer(image_size=256, resize_mode="keep_ratio", resize_only_if_bigger=False)
files = sorted(Path(sys.argv[1]).glob("*.jpg"))
start = time.process_time()
for file in files:
    data, *_, error = resizer(io.BytesIO(file.read_bytes()))
    assert error is None, error
print(len(files) / (time.process_time() - start))
"""
CLEANVISION = """
import contextlib, io, sys, time
from pathlib import Path
from cleanvision import Imagelab
count = len(list(Path(sys.argv[1]).glob("*.jpg")))
start = time.process_time()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    Imagelab(data_path=sys.argv[1]).find_issues(n_jobs=1)
print(count / (time.process_time() - start))
"""


def photographs(folder: Path) -> list[Source]:
    """Smooth shapes with some grain, no two alike, as JPEG at quality 90."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(COUNT):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (SIZE[1], SIZE[0], 3))
        image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
        file = folder / f"{number:064x}.jpg"
        image.filter(ImageFilter.SHARPEN).save(file, quality=90)
        record = RawRecord(
            sha256=file.stem, file_name=file.name, url=f"https://e.org/{number}", width=1, height=1
        )
        found.append(Source(record, file, replayed=False))
    return found


def ours(sources: list[Source], max_side: int) -> float:
    """Images a second."""
    with tempfile.TemporaryDirectory() as out:
        spec = SanitizeSpec(raw="none", max_side=max_side)
        started = time.process_time()
        passed = [admit(source, Path(out), spec) for source in sources]
        seconds = time.process_time() - started
    assert all(isinstance(one, Admitted) for one in passed), passed[0]
    return len(sources) / seconds


def steps(sources: list[Source]) -> dict[str, float]:
    """Milliseconds of each step for one picture that is reduced to 256 px."""
    datas = [source.file.read_bytes() for source in sources[:50]]
    wholes = [decode(data) for data in datas]
    smalls = [reduced(image, MEASURED_SIDE) for image in wholes]
    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "a.png"
        each: dict[str, Callable[[], object]] = {
            "decode": lambda: [decode(data) for data in datas],
            "letterbox": lambda: [crop_bars(image) for image in wholes],
            "reduce": lambda: [reduced(image, MEASURED_SIDE) for image in wholes],
            "measure": lambda: [measure(image, image) for image in smalls],
            "fingerprints": lambda: [(perceptual_hash(i), thumbnail(i)) for i in smalls],
            "PNG of 256 px": lambda: [write_png(image, file) for image in smalls],
            "PNG of the whole": lambda: [write_png(image, file) for image in wholes],
        }
        return {name: 1000 * min(map(timed, [step] * 3)) / 50 for name, step in each.items()}


def timed(step: Callable[[], object]) -> float:
    """Seconds of this process."""
    started = time.process_time()
    step()
    return time.process_time() - started


def theirs(script: str, folder: Path) -> float:
    """Images a second, as the script prints it."""
    done = subprocess.run(
        [str(VENV / "bin" / "python"), "-c", script, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    if not (VENV / "bin" / "img2dataset").exists():
        venv.create(VENV, with_pip=True)
        install = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", *PACKAGES]
        subprocess.run(install, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = photographs(folder)
        rates = [
            (
                ours(sources, 256),
                ours(sources, 2048),
                theirs(IMG2DATASET, folder),
                theirs(CLEANVISION, folder),
            )
            for _ in range(ROUNDS)
        ]
        parts = ", ".join(f"{name} {took:.2f}" for name, took in steps(sources).items())
    sys.stderr.write(f"ours, ms a picture: {parts}\n")
    small, whole, resize, checks = (max(rate) for rate in zip(*rates, strict=True))
    sys.stderr.write(
        f"images/s on one core: ours {small:.0f} reduced to 256 px, {whole:.0f} whole without "
        f"loss; img2dataset {resize:.0f}, cleanvision {checks:.0f}\n"
    )
    against = {
        "images_vs_img2dataset": (
            small / resize,
            "img2dataset 1.47.0's Resizer to JPEG; ours to PNG, with all checks",
        ),
        "images_whole_vs_img2dataset": (
            whole / resize,
            "img2dataset 1.47.0's Resizer to a JPEG of 256 px; ours: the whole without loss",
        ),
        "images_vs_cleanvision": (
            whole / checks,
            "cleanvision 0.3.7, find_issues on one job; ours also writes the picture",
        ),
    }
    for key, (value, whom) in against.items():
        line = {
            f"sanitize.{key}": {
                "value": round(value, 3),
                "unit": "ratio",
                "goal": 1.0,
                "better": "higher",
                "against": whom,
                "command": "python tests/bench/run.py --only sanitize",
            }
        }
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
