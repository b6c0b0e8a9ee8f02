"""From scores and gates to what the next attempt should change: rules, each with its reason.

=========================  ===================================================================
seen                       advised
=========================  ===================================================================
weights not finite         learning rate × 0.3
blank pictures             learning rate × 0.5
training images copied     the few that are copied dropped, else learning rate × 0.7; weight
                           decay 0.3
pictures too alike         learning rate × 0.5, weight decay 0.1
drift                      learning rate × 0.7, weight decay 0.1
no effect                  learning rate × 2, rank × 2
style not learned enough   learning rate × 1.5, rank × 1.5, steps × 1.25; off-style images dropped
subjects not shown         captions of something else replaced, or the worst tenth dropped and
                           poor captions composed anew
slow with the adapter      rank × 0.5
=========================  ===================================================================

Too strong comes before too weak: what says "less" about the training silences what says "more".
The first that speaks on a value decides it. The numbers are steps of a search, small enough
that a second attempt is not worse than the first by their doing and large enough to be
seen; three attempts leave no room for a finer one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_factory.contracts.evaluation import Advice, HardGate, ItemAdvice

LOW = 0.75
"""A score below this is worth acting on."""
NO_ADVICE = Advice()
WORST_SHARE = 10.0
"""Per cent of the pairs that go when no single image stands out."""


@dataclass(frozen=True)
class Findings:
    """What rules read.

    Args:
        scores: metric → anchored score, None where it abstains.
        gates: name → gate; one that is absent was not reached.
        items: what stands out among the dataset's images.
        copied: training images that pictures repeat.
    """

    scores: Mapping[str, float | None]
    gates: Mapping[str, HardGate]
    items: Sequence[ItemAdvice] = ()
    copied: Sequence[ItemAdvice] = ()

    def failed(self, gate: str) -> bool:
        """The gate was reached and is closed."""
        return gate in self.gates and not self.gates[gate].passed

    def low(self, metric: str) -> str:
        """``0.41`` where the metric has a low score, else empty."""
        score = self.scores.get(metric)
        return "" if score is None or score >= LOW else f"{score:.2f}"

    def named(self, reason: str) -> tuple[ItemAdvice, ...]:
        """The images that stand out for one reason."""
        return tuple(item for item in self.items if item.reason == reason)


@dataclass
class Change:
    """Advice in the making."""

    values: dict[str, Any] = field(default_factory=dict)
    items: dict[str, ItemAdvice] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def say(self, reason: str, *, items: Sequence[ItemAdvice] = (), **values: float | bool) -> None:
        """Advise ``values``, as far as nothing before spoke on them, because of ``reason``."""
        self.reasons.append(reason)
        self.values = values | self.values
        self.items = {item.sha256: item for item in items} | self.items


def advise(
    scores: Mapping[str, float | None],
    gates: Mapping[str, HardGate],
    passed: bool,
    *,
    items: Sequence[ItemAdvice] = (),
    copied: Sequence[ItemAdvice] = (),
    followed: Advice = NO_ADVICE,
) -> Advice:
    """Advice for the next attempt, what this one followed included.

    Args:
        scores: metric → anchored score, None where it abstains.
        gates: name → gate; one that is absent was not reached.
        passed: nothing failed.
        items: what stands out among the dataset's images (``items.judge_items``).
        copied: training images that pictures repeat (``items.copied_items``).
        followed: the advice that the LoRA's data and plan followed.
    """
    if passed:
        return followed.model_copy(update={"reasons": ("passed: nothing to change",)})
    found, change = Findings(scores, gates, items, copied), Change()
    _broken(found, change)
    _too_strong(found, change)
    if not change.reasons:
        _too_weak(found, change)
    _captions(found, change)
    if not change.reasons:
        change.say("close to the threshold: train longer", steps_scale=1.25)
    return _on_top_of(followed, change)


def _broken(found: Findings, change: Change) -> None:
    if found.failed("finite_weights"):
        reason = "weights are not finite: training diverged, lower the learning rate"
        change.say(reason, learning_rate_scale=0.3)
    if found.failed("keys_used"):
        change.say("the file doesn't fit its base: train it again on this base")
    if found.failed("no_blank_images"):
        reason = "blank images: the LoRA overpowers the base, lower the learning rate"
        change.say(reason, learning_rate_scale=0.5)


def _too_strong(found: Findings, change: Change) -> None:
    if found.failed("no_copies"):
        if found.copied:
            reason = f"{len(found.copied)} training images are copied: drop them, regularise more"
            change.say(reason, items=found.copied, weight_decay=0.3)
        else:
            reason = "training images are copied: lower the learning rate, regularise more"
            change.say(reason, learning_rate_scale=0.7, weight_decay=0.3)
    weak = found.failed("effect")
    if (value := found.low("diversity")) and not weak:
        reason = f"diversity {value}: images are too alike, lower the learning rate"
        change.say(reason, learning_rate_scale=0.5, weight_decay=0.1)
    if (value := found.low("drift")) and not weak:
        reason = (
            f"drift {value}: prompts without the trigger change too; lower the learning rate, "
            "regularise more"
        )
        change.say(reason, learning_rate_scale=0.7, weight_decay=0.1)
    if value := found.low("efficiency"):
        change.say(
            f"efficiency {value}: the adapter slows the base, halve its rank", rank_scale=0.5
        )


def _too_weak(found: Findings, change: Change) -> None:
    if found.failed("effect"):
        reason = "the LoRA changes nothing: raise learning rate and rank"
        change.say(reason, learning_rate_scale=2.0, rank_scale=2.0)
    elif value := found.low("fidelity"):
        reason = f"fidelity {value}: the style is not learned enough, raise rank, rate and steps"
        change.say(reason, learning_rate_scale=1.5, rank_scale=1.5, steps_scale=1.25)
        if strange := found.named("off_style"):
            reason = f"{len(strange)} images are of another style than the rest: drop them"
            change.say(reason, items=strange)


def _captions(found: Findings, change: Change) -> None:
    value = found.low("alignment")
    if not value and not found.failed("shows_subjects"):
        return
    value = value or "too low to count"
    if wrong := found.named("caption_mismatch"):
        change.say(
            f"alignment {value}: {len(wrong)} captions are of something else, put right or "
            "dropped one by one",
            items=wrong,
        )
        return
    change.say(
        f"alignment {value}: images don't show their words; drop the worst captioned tenth and "
        "write the poorest captions anew",
        drop_alignment_percentile=WORST_SHARE,
        recaption=True,
    )


def _on_top_of(followed: Advice, change: Change) -> Advice:
    """The change and what was followed before: scales multiply, shares add up."""
    values = change.values

    def scale(name: str) -> float:
        return float(min(max(getattr(followed, name) * values.get(name, 1.0), 0.05), 4.0))

    percentile = followed.drop_alignment_percentile + values.get("drop_alignment_percentile", 0.0)
    decays = (followed.weight_decay, values.get("weight_decay"))
    items = {item.sha256: item for item in followed.items} | change.items
    return Advice(
        items=tuple(items.values()),
        drop_alignment_percentile=min(percentile, 30.0),
        recaption=followed.recaption or bool(values.get("recaption")),
        rank_scale=scale("rank_scale"),
        learning_rate_scale=scale("learning_rate_scale"),
        steps_scale=scale("steps_scale"),
        weight_decay=max((decay for decay in decays if decay is not None), default=None),
        reasons=tuple(change.reasons),
    )
