"""Hard gates: conditions that no average can outweigh. Each says what it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.contracts.evaluation import HardGate
from lora_factory.errors import ModelError
from lora_factory.guard.copyright import LEAST_CHANCE, chance_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.copyright import CopyrightCheck
    from lora_factory.contracts.evaluation import Comparison
    from lora_factory.evaluate.metrics import Matches, Pairs, Readable
    from lora_factory.guard.copying import Cuts, Nearest
    from lora_factory.guard.output import Finding

READABLE = 0.05
"""p-value of matched against shuffled real pairs above which the scorer is held blind."""
UNMATCHED = 0.2
"""p-value of the LoRA's own pictures above which they are held to miss their subjects. With 24
pictures, sound LoRAs of four icon styles had 0.025 and less, those trained on shuffled captions
0.3 and more in three of them; chance alone leaves one such LoRA in five unseen."""
BLANK_DEVIATION = 4.0
"""Standard deviation of the grey levels (of 255) under which a picture is blank."""
BLANK_SHARE = 0.05
LEAST_EFFECT = 1.0
"""Grey levels by which a LoRA must move the median picture."""
ONE_SIDED = 1.645
"""Standard errors up to the end of a one-sided 95% interval."""
MEASURABLE = 0.05
"""Least cosine between base and real images for the style to be measurable."""


def finite_weights(file: Path) -> HardGate:
    """No NaN or Inf in the file.

    Raises:
        ModelError: the file is not safetensors, damaged, or holds no weights.
    """
    from safetensors import SafetensorError, safe_open

    count = 0
    try:
        with safe_open(str(file), framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a dict)
                count += 1
                if not bool(opened.get_tensor(key).isfinite().all()):
                    return _gate("finite_weights", False, f"{key} holds NaN or Inf")
    except (SafetensorError, OSError) as err:
        reason = str(err).splitlines()[0]
        msg = f"LoRA file {file.name} can't be read: {reason}; train it again"
        raise ModelError(msg) from err
    if not count:
        msg = f"LoRA file {file.name} holds no weights; train it again"
        raise ModelError(msg)
    return _gate("finite_weights", True, f"{count} tensors")


def keys_used(problem: str) -> HardGate:
    """Every key found its layer; ``problem`` is the loader's complaint, or empty."""
    return _gate("keys_used", not problem, problem or "every key found its layer")


def effect(base: Sequence[Image], lora: Sequence[Image]) -> HardGate:
    """The LoRA changes pictures: a zeroed ``lora_up`` doesn't."""
    moved = [
        float(np.abs(_grey(one) - _grey(other)).mean())
        for one, other in zip(base, lora, strict=True)
    ]
    median = float(np.median(moved))
    return _gate(
        "effect", median >= LEAST_EFFECT, f"median change {median:.1f} of 255 (≥ {LEAST_EFFECT:g})"
    )


def is_blank(image: Image) -> bool:
    """Black, or nearly one grey level."""
    return float(np.asarray(image.convert("L"), dtype=np.float32).std()) < BLANK_DEVIATION


def no_blank_images(lora: Sequence[Image]) -> HardGate:
    """No black or constant pictures, but for one in twenty."""
    blank = sum(is_blank(image) for image in lora)
    passed = blank <= BLANK_SHARE * len(lora)
    return _gate("no_blank_images", passed, f"{blank} of {len(lora)} are blank")


def no_copies(nearest: Sequence[Nearest], cuts: Cuts) -> HardGate:
    """Pictures that repeat a training image: none verbatim, and no more than chance gives.

    The guard's rule for protected works (``guard.copyright``): up to 2% of originals are taken
    for copies, so that of 24 honest pictures two are one time in twelve (seen: two black blobs
    of a sound LoRA, each near a black drop).
    """
    copies = sum(one.copied for one in nearest)
    verbatim = sum(one.verbatim for one in nearest)
    by_chance = chance_of(copies, len(nearest), cuts.chance)
    passed = bool(nearest) and not verbatim and by_chance >= LEAST_CHANCE
    detail = (
        f"{copies} of {len(nearest)} repeat a training image, {verbatim} verbatim (cosine ≥ "
        f"{cuts.cosine:.3f} or ≤ {cuts.bits} of 64 hash bits apart, cuts from "
        f"{cuts.calibrated_on} originals; as many by chance: p = {by_chance:.2f})"
    )
    return _gate("no_copies", passed, detail)


def no_protected_works(check: CopyrightCheck) -> HardGate:
    """The deployment's protected works are not repeated, or its policy is to flag them."""
    detail = (
        f"{check.calibrated_hits} of {check.n} repeat one of {check.works} protected works, "
        f"{check.verbatim_hits} verbatim (policy {check.policy}); {check.note}"
    )
    return _gate("no_protected_works", check.passed, detail)


def safe_images(findings: Sequence[Finding]) -> HardGate:
    """The output guard allows every picture that was made with the LoRA."""
    caught = [finding for finding in findings if not finding.allowed]
    detail = f"{len(caught)} of {len(findings)} pictures are refused by the output guard"
    if caught:
        rules = Counter(finding.rule for finding in caught)
        named = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items()))
        worst = max(caught, key=lambda finding: finding.score)
        detail = f"{detail} ({named}); worst: {worst.detail}"
    return _gate("safe_images", not caught and bool(findings), detail)


def style_measurable(pairs: Pairs, note: str = "") -> HardGate:
    """The scorer tells the style from the base; else no score means anything.

    ``note`` says what else the anchors suffer from.
    """
    from lora_factory.evaluate.metrics import style_similarity

    base, _, real = style_similarity(pairs)[:, 0]
    detail = f"real {real:.2f} against base {base:.2f} (≥ {MEASURABLE:g} apart)"
    detail = f"{detail}; {note}" if note else detail
    return _gate("style_measurable", real - base >= MEASURABLE, detail)


def shows_subjects(
    ratio: float,
    sight: Readable,
    least: float,
    own: Matches | None = None,
    adherence: float | None = None,
) -> HardGate:
    """The pictures aren't shown to miss their subjects, where the scorer reads the style.

    Alignment may be too coarse to enter the overall score, and still be plainly lost (a
    LoRA trained on shuffled captions). Three ways to see it, where the real images match their
    subjects: the upper end of the one-sided 95% interval of ``ratio``
    (``metrics.raw_alignment``) is below ``least``; the LoRA's own pictures match their
    subjects hardly better than each other's (p above ``UNMATCHED``), though the base's do; or
    ``adherence``, the lower end of the 95% interval of ``metrics.raw_adherence``, is no better
    than chance.
    """
    if sight.p_value > READABLE:
        return _gate("shows_subjects", True, "the scorer can't read this style")
    if own is not None and own.base <= READABLE and own.lora > UNMATCHED:
        detail = (
            f"pictures match their own words hardly better than each other's (p = {own.lora:.2f}, "
            f"the base's {own.base:.4f})"
        )
        return _gate("shows_subjects", False, detail)
    if adherence is not None and adherence <= 0:
        detail = (
            "words, real images and the base's pictures together: pictures are not shown to have "
            f"more to do with their own prompts than with others' (adherence from {adherence:.2f})"
        )
        return _gate("shows_subjects", False, detail)
    upper = ratio + ONE_SIDED * sight.error
    detail = f"{ratio:.2f} of the real images' match, at most {upper:.2f} (≥ {least:g})"
    return _gate("shows_subjects", upper >= least, detail)


def beats_incumbent(comparison: Comparison) -> HardGate:
    """The deployed model stays unless this one is shown to be better.

    Rule: the lower end of the 95% interval of the paired difference in overall score
    (efficiency left out, since both are served alike) is above 0.
    """
    detail = (
        f"{comparison.overall:.3f} against the deployed {comparison.incumbent:.3f}: "
        f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}] "
        f"on {comparison.n} pairs (lower end > 0)"
    )
    return _gate("beats_incumbent", comparison.low > 0, detail)


def no_comparison(why: str) -> HardGate:
    """The deployed model can't be drawn, so nothing is shown to beat it."""
    return _gate("beats_incumbent", False, why)


def _gate(name: str, passed: bool, detail: str) -> HardGate:
    return HardGate(name=name, passed=bool(passed), detail=detail)


def _grey(image: Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32)
