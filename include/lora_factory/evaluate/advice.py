"""From scores to what the next attempt should change: rules, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

from lora_factory.contracts.evaluation import Advice, HardGate

LOW = 0.75
"""A score below this is worth acting on."""


def advise(
    scores: Mapping[str, float | None], gates: Mapping[str, HardGate], passed: bool
) -> Advice:
    """Rules, most urgent first; the first that speaks on the learning rate decides it.

    Args:
        scores: metric → anchored score, None where it abstains.
        gates: name → gate; one that is absent was not reached.
        passed: the verdict.
    """
    if passed:
        return Advice(reasons=("passed: nothing to change",))
    found = _broken(gates) or _too_strong(scores, gates) or _too_weak(scores, gates)
    rate, rank, reasons = found or (1.0, 1.0, [])
    drop, recaption = 0.0, False
    score = scores.get("alignment")
    if _failed(gates, "shows_subjects") or (score is not None and score < LOW):
        drop, recaption = 10.0, True
        value = "too low to count" if score is None else f"{score:.2f}"
        reasons = [
            *reasons,
            f"alignment {value}: images don't show their words; drop the worst captioned "
            "tenth and write the captions anew",
        ]
    return Advice(
        drop_alignment_percentile=drop,
        recaption=recaption,
        rank_scale=rank,
        learning_rate_scale=rate,
        reasons=tuple(reasons) or ("close to the threshold: train longer",),
    )


Change = tuple[float, float, list[str]]
"""Learning rate scale, rank scale, reasons."""


def _failed(gates: Mapping[str, HardGate], name: str) -> bool:
    return name in gates and not gates[name].passed


def _broken(gates: Mapping[str, HardGate]) -> Change | None:
    if _failed(gates, "finite_weights"):
        return 0.3, 1.0, ["weights are not finite: training diverged, lower the learning rate"]
    if _failed(gates, "keys_used"):
        return 1.0, 1.0, ["the file doesn't fit its base: train it again on this base"]
    if _failed(gates, "no_blank_images"):
        return 0.5, 1.0, ["blank images: the LoRA overpowers the base, lower the learning rate"]
    return None


def _too_strong(scores: Mapping[str, float | None], gates: Mapping[str, HardGate]) -> Change | None:
    reasons = []
    if _failed(gates, "no_copies"):
        reasons.append("training images are copied: lower the learning rate")
    score = scores.get("diversity")
    if score is not None and score < LOW and not _failed(gates, "effect"):
        reasons.append(f"diversity {score:.2f}: images are too alike, lower the learning rate")
    return (0.5, 1.0, reasons) if reasons else None


def _too_weak(scores: Mapping[str, float | None], gates: Mapping[str, HardGate]) -> Change | None:
    if _failed(gates, "effect"):
        return 2.0, 2.0, ["the LoRA changes nothing: raise learning rate and rank"]
    score = scores.get("fidelity")
    if score is not None and score < LOW:
        reason = f"fidelity {score:.2f}: the style is not learned enough, raise rank and rate"
        return 1.5, 1.5, [reason]
    return None
