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
slow with the adapter      rank × 0.5
images of another style    dropped
captions of something      replaced or taken away, one by one; steps × 1.5 where the style was
else                       not learned enough either
no effect                  learning rate × 2, rank × 2
style not learned enough   still improving at the end: steps × 1.5, rank × 1.5; best before the
                           end: learning rate × 0.7, weight decay 0.1
subjects not shown         the worst captioned tenth dropped, poor captions composed anew
=========================  ===================================================================

In this order: what says "less" about the training, then faults of the data, and only where
neither is found what says "more": a LoRA trained harder on spoiled data is a worse one (tried:
captions of 8 of 24 signs shuffled; rate and rank × 1.5 took style fidelity from 0.44 to 0, two
epochs more alone to 0.35). More steps on what is left, at the same rate, are no harm. The first
that speaks on a value decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_factory.contracts.evaluation import Advice, HardGate, ItemAdvice
from lora_factory.contracts.training import TrainReport

LOW = 0.75
"""A score below this is worth acting on."""
NO_ADVICE = Advice()
STILL_IMPROVING = 0.8
"""Share of the steps from which on being best means that it was still improving."""
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
        best_share: step at which the LoRA was best over all steps.
    """

    scores: Mapping[str, float | None]
    gates: Mapping[str, HardGate]
    items: Sequence[ItemAdvice] = ()
    copied: Sequence[ItemAdvice] = ()
    best_share: float = 1.0

    def failed(self, gate: str) -> bool:
        """The gate was reached and is closed."""
        return gate in self.gates and not self.gates[gate].passed

    def low(self, metric: str) -> str:
        """``0.41`` where the metric has a low score, else empty."""
        score = self.scores.get(metric)
        return "" if score is None or score >= LOW else f"{score:.2f}"

    @property
    def weak(self) -> str:
        """``fidelity 0.41``, else ``typicality 0.00`` where that is low, else empty."""
        names = [name for name in ("fidelity", "typicality") if self.low(name)]
        return f"{names[0]} {self.low(names[0])}" if names else ""

    @property
    def collapsed(self) -> bool:
        """Variety is lower than the style's.

        Pictures outside the style count as no variety; where the style isn't learned, a
        diversity above the fidelity is just that.
        """
        diversity, fidelity = self.scores.get("diversity"), self.scores.get("fidelity")
        if diversity is None or fidelity is None:
            return diversity is not None
        return fidelity >= LOW or diversity <= fidelity

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
    best_share: float = 1.0,
    followed: Advice = NO_ADVICE,
) -> Advice:
    """Advice for the next attempt, what this one followed included.

    Args:
        scores: metric → anchored score, None where it abstains.
        gates: name → gate; one that is absent was not reached.
        passed: nothing failed.
        items: what stands out among the dataset's images (``items.judge_items``).
        copied: training images that pictures repeat (``items.copied_items``).
        best_share: step at which the LoRA was best over all steps.
        followed: the advice that the LoRA's data and plan followed.
    """
    if passed:
        return followed.model_copy(update={"reasons": ("passed: nothing to change",)})
    found, change = Findings(scores, gates, items, copied, best_share), Change()
    _broken(found, change)
    _too_strong(found, change)
    _spoiled(found, change)
    if not change.reasons:
        _too_weak(found, change)
        _captions(found, change)
    elif change.items and "learning_rate_scale" not in change.values:
        _train_on(found, change)
    if not change.reasons:
        change.say("close to the threshold: train longer", steps_scale=1.25)
    return _on_top_of(followed, change)


def best_share(checkpoint: str, trained: TrainReport) -> float:
    """After which share of the steps the LoRA was best: by pictures, else by validation loss."""
    step = trained.best_step
    if checkpoint in trained.checkpoints:
        step = int("".join(char for char in checkpoint if char.isdigit()))
    return step / max(1, trained.steps)


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
    if (value := found.low("diversity")) and not weak and found.collapsed:
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


def _spoiled(found: Findings, change: Change) -> None:
    """Whatever the scores say: their anchors are the same spoiled data."""
    if strange := found.named("off_style"):
        change.say(
            f"{len(strange)} images are of another style than the rest: drop them", items=strange
        )
    if wrong := found.named("caption_mismatch"):
        reason = f"{len(wrong)} captions are of something else: put them right, or do without"
        change.say(reason, items=wrong)


def _too_weak(found: Findings, change: Change) -> None:
    if found.failed("effect"):
        reason = "the LoRA changes nothing: raise learning rate and rank"
        change.say(reason, learning_rate_scale=2.0, rank_scale=2.0)
    elif what := found.weak:
        if found.best_share >= STILL_IMPROVING:
            reason = (
                f"{what}: the style is not learned enough and was still improving at "
                "the end, train longer at a higher rank"
            )
            change.say(reason, rank_scale=1.5, steps_scale=1.5)
        else:
            reason = (
                f"{what}: it was best after {found.best_share:.0%} of the steps, "
                "lower the learning rate, regularise more"
            )
            change.say(reason, learning_rate_scale=0.7, weight_decay=0.1)


def _train_on(found: Findings, change: Change) -> None:
    """Fewer images make fewer steps: the same epochs would teach less than before."""
    if (what := found.weak) and found.best_share >= STILL_IMPROVING:
        reason = f"{what}: the style is not learned enough, train longer on what is left"
        change.say(reason, steps_scale=1.5)


def _captions(found: Findings, change: Change) -> None:
    value = found.low("alignment")
    if value or found.failed("shows_subjects"):
        change.say(
            f"alignment {value or 'too low to count'}: images don't show their words; drop the "
            "worst captioned tenth and write the poorest captions anew",
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
