"""guard.ms_per_512px_image: everything the guard does to a generated picture of 512 px.

The content filter, embedding and hashes against an index of protected works (the gallery's
icons), then the marks: watermark, PNG, signed manifest. One picture at a time, as a serving app
has them, on two threads; the smallest of some tries counts: the rest is other work on the
machine. Against: the parts. Then, with no goal but to be read: how many harmless pictures the
content filter refuses, in the gallery and among photographs that wheels ship, and their highest
score.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import sklearn.datasets
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from labelled_prompts import Rate  # noqa: E402
from lora_factory.contracts.settings import Settings  # noqa: E402
from lora_factory.guard.images import image_filter  # noqa: E402
from lora_factory.guard.indexing import build_index  # noqa: E402
from lora_factory.guard.output import OutputGuard  # noqa: E402
from lora_factory.guard.protected import SCORER, ProtectedFilter  # noqa: E402
from lora_factory.guard.provenance.c2pa import Facts  # noqa: E402
from lora_factory.guard.provenance.marks import image_marker  # noqa: E402
from lora_factory.models.content_filters import content_filter  # noqa: E402
from lora_factory.models.loaders import image_text_scorer  # noqa: E402
from lora_factory.models.profiles import PACKAGE, load_profile  # noqa: E402

THREADS, SIDE, TRIES = 2, 512, 24
ICONS = PACKAGE / "demo" / "gallery" / "icons"
FACTS = Facts(base="emoji", base_revision="r1", adapter="icons", version="v1", lora_sha256="a" * 64)


def photos() -> list[Image.Image]:
    """Quarters of three photographs, each enlarged to the bench's size."""
    views = Path(sklearn.datasets.__file__).parent / "images"
    files = [
        Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
        views / "china.jpg",
        views / "flower.jpg",
    ]
    found = []
    for file in files:
        image = Image.open(file).convert("RGB")
        width, height = image.width // 2, image.height // 2
        for x in (0, width):
            for y in (0, height):
                found.append(image.crop((x, y, x + width, y + height)).resize((SIDE, SIDE)))
    return found


def milliseconds(work: Callable[[Image.Image], object], images: list[Image.Image]) -> float:
    """The smallest of some tries, after one to warm up."""
    work(images[0])
    times = []
    for number in range(TRIES):
        started = time.perf_counter()
        work(images[number % len(images)])
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> None:
    torch.set_num_threads(THREADS)
    settings, profile = Settings(threads=THREADS), load_profile("embedded", Settings())
    scorer, images = image_text_scorer(profile), photos()
    index = build_index(ICONS, None, scorer, profile.role(SCORER).resolve_revision())
    content = image_filter(profile, settings)
    protected = ProtectedFilter(index, scorer, "block")
    guard = OutputGuard([content, protected])
    with tempfile.TemporaryDirectory() as folder:
        marker = image_marker(settings, Path(folder))
        parts = {
            "content filter": milliseconds(lambda image: content.check([image]), images),
            f"{len(index)} protected works": milliseconds(
                lambda image: protected.check([image]), images
            ),
            "marks": milliseconds(lambda image: marker.mark_image(image, FACTS), images),
        }
        whole = milliseconds(
            lambda image: (guard.check([image]), marker.mark_image(image, FACTS)), images
        )
    figure = {
        "value": round(whole, 1),
        "unit": "ms",
        "goal": 300,
        "better": "lower",
        "against": ", ".join(f"{name} {part:.0f}" for name, part in parts.items()),
        "command": "make bench ONLY=guard",
    }
    sys.stdout.write(json.dumps({"guard.ms_per_512px_image": figure}) + "\n")
    model = content_filter(profile, THREADS)
    icons = [Image.open(file).convert("RGB") for file in sorted(ICONS.glob("*.png"))]
    for name, some in (("icons of 64 px", icons), ("photographs", images)):
        scores = model.scores(some)
        refused = Rate(int((scores >= model.threshold).sum()), len(some))
        sys.stderr.write(f"content filter refuses {refused} {name}, highest {scores.max():.3f}\n")


if __name__ == "__main__":
    main()
