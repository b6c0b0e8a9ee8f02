"""Shares, intervals and paired differences: pure functions of readings.

A *reading* of P prompts × S seeds is an array of 1 (first group), -1 (second), 0 (neither
clearly). Intervals are two-level bootstraps (prompts, then seeds), widened to Newcombe's
hybrid score interval where few pictures that all agree would give one of no width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lora_factory.contracts.ethics import Estimate, PromptShare, Share, SideAudit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lora_factory.contracts.ethics import Side

    Labels = NDArray[np.int64]
    Floats = NDArray[np.floating]

LEVEL = 0.95
REPLICATES = 2000
PARITY = 0.5


class Span(NamedTuple):
    """A value with an interval."""

    value: float
    low: float
    high: float


def wilson(count: int, n: int) -> Share:
    """Share with its Wilson 95% interval (Wilson 1927); of nothing: ½, from 0 to 1."""
    from scipy.stats import binomtest

    if not n:
        return Share(count=0, n=0, value=PARITY, low=0.0, high=1.0)
    found = binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    return Share(count=count, n=n, value=count / n, low=float(found.low), high=float(found.high))


def share_of(labels: Labels) -> Share:
    """Share of the first group among pictures that show either."""
    return wilson(int((labels == 1).sum()), int((labels != 0).sum()))


def audit_side(
    side: Side, labels: Labels, prompts: Sequence[str], rng: np.random.Generator
) -> SideAudit:
    """Shares by prompt and in all, distance from parity, and spread between prompts.

    Args:
        side: whose pictures.
        labels: P×S readings.
        prompts: P of them.
        rng: source of resamples and permutations.
    """
    share = share_of(labels)
    parity = association = p_value = None
    if share.n:
        boot = _share(_resample(labels[None], rng)[0]) - PARITY
        plain = Span(share.value - PARITY, share.low - PARITY, share.high - PARITY)
        parity = _estimate(plain, boot, share.n)
    by_prompt = [share_of(row) for row in labels]
    told = [one for one in by_prompt if one.n]
    if len(told) >= 2:
        spread = _spread(labels[None])[0]
        low, high = np.percentile(_spread(_resample(labels[None], rng)[0]), _tails())
        # A resample spreads more than its source: the interval is moved to hold the value.
        association = Estimate(
            value=spread, low=min(float(low), spread), high=max(float(high), spread), n=share.n
        )
        p_value = _permuted(labels, rng)
    return SideAudit(
        side=side,
        pictures=labels.size,
        undetermined=int((labels == 0).sum()),
        share=share,
        prompts=tuple(
            PromptShare(prompt=prompt, share=one)
            for prompt, one in zip(prompts, by_prompt, strict=True)
        ),
        parity=parity,
        association=association,
        association_p=p_value,
    )


def share_shift(before: Labels, after: Labels, rng: np.random.Generator) -> Estimate | None:
    """Share after minus before, paired by prompt and seed; None where either shows nothing."""
    return _difference(before, after, rng, from_parity=False)


def parity_shift(before: Labels, after: Labels, rng: np.random.Generator) -> Estimate | None:
    """|share − ½| after minus before, paired: above 0 means further from parity."""
    return _difference(before, after, rng, from_parity=True)


def mean_of(values: Floats, rng: np.random.Generator) -> Estimate:
    """Mean of P×S values; of differences, where they are paired."""
    rows, columns = _indices(values.shape, rng)
    low, high = np.percentile(values[rows, columns].mean(axis=(1, 2)), _tails())
    value = float(values.mean())
    return Estimate(
        value=value, low=min(float(low), value), high=max(float(high), value), n=values.size
    )


def match_shift(before: Floats, after: Floats, rng: np.random.Generator) -> Estimate | None:
    """Mean of ``after`` minus that of ``before`` over the latter: P×S values, paired.

    None where ``before`` isn't above 0 beyond chance: there is nothing to lose.
    """
    rows, columns = _indices(before.shape, rng)
    old, new = (values[rows, columns].mean(axis=(1, 2)) for values in (before, after))
    if np.percentile(old, _tails()[0]) <= 0:
        return None
    low, high = np.percentile((new - old) / old, _tails())
    value = float((after.mean() - before.mean()) / before.mean())
    return Estimate(
        value=value, low=min(float(low), value), high=max(float(high), value), n=before.size
    )


def _difference(
    before: Labels, after: Labels, rng: np.random.Generator, *, from_parity: bool
) -> Estimate | None:
    shares = share_of(before), share_of(after)
    if not (shares[0].n and shares[1].n):
        return None
    boots = [_share(part) for part in _resample(np.stack([before, after]), rng)]
    spans = [Span(one.value, one.low, one.high) for one in shares]
    if from_parity:
        boots = [np.abs(part - PARITY) for part in boots]
        spans = [_from_parity(span) for span in spans]
    return _estimate(_newcombe(*spans), boots[1] - boots[0], min(shares[0].n, shares[1].n))


def _newcombe(before: Span, after: Span) -> Span:
    """Difference of two values from their own intervals (Newcombe 1998, method 10)."""
    value = after.value - before.value
    down = np.hypot(after.value - after.low, before.high - before.value)
    up = np.hypot(after.high - after.value, before.value - before.low)
    return Span(value, value - float(down), value + float(up))


def _from_parity(span: Span) -> Span:
    """|x − ½| of a share: its interval starts at 0 where the share's holds ½."""
    ends = sorted((abs(span.low - PARITY), abs(span.high - PARITY)))
    low = 0.0 if span.low <= PARITY <= span.high else ends[0]
    return Span(abs(span.value - PARITY), low, ends[1])


def _estimate(plain: Span, boot: Floats, n: int) -> Estimate:
    """The wider of both intervals."""
    kept = boot[np.isfinite(boot)]
    low, high = np.percentile(kept, _tails()) if len(kept) else (plain.low, plain.high)
    return Estimate(
        value=plain.value,
        low=min(float(low), plain.low),
        high=max(float(high), plain.high),
        n=n,
    )


def _tails() -> list[float]:
    return [50 * (1 - LEVEL), 50 * (1 + LEVEL)]


def _indices(
    shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two-level resamples of P×S: row and column numbers, each replicates×P×S."""
    prompts, seeds = shape
    rows = rng.integers(prompts, size=(REPLICATES, prompts, 1))
    return rows, rng.integers(seeds, size=(REPLICATES, prompts, seeds))


def _resample(parts: Labels, rng: np.random.Generator) -> Labels:
    """k×P×S → k×replicates×P×S, all parts by the same rows and columns."""
    rows, columns = _indices(parts.shape[1:], rng)
    found: Labels = parts[:, rows, columns]
    return found


def _share(labels: Labels) -> Floats:
    """replicates×P×S → shares; NaN where nothing is determined."""
    told = (labels != 0).sum(axis=(1, 2))
    first = (labels == 1).sum(axis=(1, 2))
    shares: Floats = np.where(told > 0, first / np.maximum(told, 1), np.nan)
    return shares


def _spread(labels: Labels) -> Floats:
    """replicates×P×S → highest minus lowest share of a prompt that shows either group."""
    told = (labels != 0).sum(axis=2)
    first = (labels == 1).sum(axis=2) / np.maximum(told, 1)
    high = np.where(told > 0, first, -1.0).max(axis=1)
    low = np.where(told > 0, first, 2.0).min(axis=1)
    spread: Floats = np.maximum(high - low, 0.0)
    return spread


def _between(labels: Labels) -> Floats:
    """replicates×P×S → Σ n (share of the prompt − share of all)²: Pearson's χ² but for a factor
    that permuting leaves alone. Unlike the spread it isn't 1 as soon as two prompts disagree.
    """
    told = (labels != 0).sum(axis=2)
    first = (labels == 1).sum(axis=2)
    whole = first.sum(axis=1, keepdims=True) / np.maximum(told.sum(axis=1, keepdims=True), 1)
    squares: Floats = (told * (first / np.maximum(told, 1) - whole) ** 2).sum(axis=1)
    return squares


def _permuted(labels: Labels, rng: np.random.Generator) -> float:
    """Share of permutations of the determined readings that differ as much between prompts."""
    places = np.flatnonzero(labels.reshape(-1))
    told = labels.reshape(-1)[places]
    shuffled = np.zeros((REPLICATES, labels.size), dtype=labels.dtype)
    shuffled[:, places] = rng.permuted(np.tile(told, (REPLICATES, 1)), axis=1)
    found = _between(shuffled.reshape(REPLICATES, *labels.shape))
    at_least = found >= _between(labels[None])[0] - 1e-9
    return float((at_least.sum() + 1) / (REPLICATES + 1))
