"""Role ``text_detector``: how much of a picture is writing.

Watermarks, memes, screenshots and scanned pages teach a LoRA letters. The role may be left
empty: then nothing is dropped for its text, and the report says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from lora_factory.contracts.settings import Settings
    from lora_factory.models.profiles import Profile, RoleModel
    from lora_factory.models.roles import TextDetector, Vectors

WEIGHTS = "PP-OCRv6_det_small.onnx"
LONGEST = 640  # pixels the network sees; writing that is too small there is no watermark
STEP = 32  # sides must be multiples of it
SURE = 0.3  # probability of a pixel, as the wheel's own default
LINE = 2.5  # times as long as wide: a line or a word; an icon is found as one round blob


class PaddleDetector:
    """PaddleOCR's differentiable binarisation (Liao et al. 2020, arXiv 1911.08947), detection only.

    It takes most drawings on a plain ground for writing, as one round patch (27 of 40 icons would
    be a fifth text, at 64 pixels as at 320), so only long patches count: lines and words.

    The weights (PP-OCRv6 small, Apache-2.0) lie in the wheel ``rapidocr``, whose code isn't
    imported: what is asked is a share of pixels, for which no polygons, no recognition and no
    OpenCV are needed.

    Raises:
        ModelError: wheel or weights missing, or not those that the profile pins.
    """

    def __init__(self, entry: RoleModel, threads: int) -> None:
        import onnxruntime

        self.name = f"{WEIGHTS}@{entry.resolve_revision()}"
        file = Path(entry.location()) / WEIGHTS
        try:
            weights = file.read_bytes()
        except OSError as err:
            msg = f"weights {file} of role text_detector can't be read; pip install rapidocr again"
            raise ModelError(msg) from err
        if (found := hashlib.sha256(weights).hexdigest()) != entry.sha256:
            msg = (
                f"weights {file} have sha256 {found[:12]}…, not the profile's "
                f"{entry.sha256[:12] or '(none)'}…; install the version that it names"
            )
            raise ModelError(msg)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            weights, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def shares(self, images: Sequence[Image]) -> Vectors:
        """n RGB images of any size → n float32 in [0, 1]: share of the picture under text."""
        return np.array([self._share(image) for image in images], dtype=np.float32)

    def _share(self, image: Image) -> float:
        scale = min(1.0, LONGEST / max(image.size))
        size = tuple(max(STEP, round(side * scale / STEP) * STEP) for side in image.size)
        pixels = np.asarray(image.resize((size[0], size[1])), dtype=np.float32)[..., ::-1]
        batch = (pixels / 127.5 - 1).transpose(2, 0, 1)[None]
        probabilities = self._session.run(None, {self._input: np.ascontiguousarray(batch)})[0]
        return float(lines_of(probabilities[0, 0] > SURE).mean())


def lines_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of what was found (h×w), the patches that are long and narrow, in whatever direction.

    How much longer than wide: the square root of the ratio of a patch's two variances, which for
    a bar is the ratio of its sides.
    """
    from scipy import ndimage

    patches, count = ndimage.label(mask, structure=np.ones((3, 3)))
    y, x = np.nonzero(mask)
    patch = patches[y, x]
    size = np.bincount(patch, minlength=count + 1).clip(min=1)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(patch, values, minlength=count + 1) / size)

    dx, dy = x - mean(x.astype(float))[patch], y - mean(y.astype(float))[patch]
    # A pixel is a square of its own: variance 1/12.
    xx, yy, xy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    middle, apart = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    long = middle + apart >= LINE * LINE * (middle - apart)
    return np.asarray(long[patches] & mask)


def text_detector(profile: Profile, settings: Settings) -> TextDetector | None:
    """The role ``text_detector``; None where the profile leaves it empty.

    Raises:
        ConfigurationError: a kind there is no code for.
        ModelError: the model is missing or damaged.
    """
    entry = profile.roles.get("text_detector")
    if entry is None:
        return None
    if entry.kind == "pp-ocr":
        return PaddleDetector(entry, settings.threads)
    msg = f"role text_detector can't be filled by kind {entry.kind!r}; use pp-ocr"
    raise ConfigurationError(msg)
