"""The copyright check of an evaluation: a LoRA's pictures against one set of works.

The article's ``detect_copyright_violation`` and the calibrated rule side by side, with what the
numbers can't rule out. A pure function: it looks at no picture itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lora_factory.contracts.copyright import CopyHit, CopyrightCheck, Policy
from lora_factory.guard.copying import Cuts, Nearest

WORST = 8
CONFIDENCE = 0.95
LEAST_CHANCE = 0.05
"""A number of hits less likely than this among originals is no chance."""


def copyright_check(
    found: Sequence[Nearest],
    files: Sequence[str],
    works: Sequence[str],
    cuts: Cuts,
    *,
    against: Literal["training", "protected"],
    policy: Policy = "block",
) -> CopyrightCheck:
    """Count what repeats a work, and say how sure that is.

    Under policy ``block`` the check passes without a verbatim hit and with no more hits than
    originals may give by chance (``cuts.chance``, one-sided binomial test at 5%): a rule that
    takes up to 2% of originals for copies would else close the gate on a third of all honest
    LoRAs, by 24 pictures alone. Without a picture it doesn't pass.

    Args:
        found: the nearest work of each of n pictures, of ``CopyDetector`` or ``ProtectedIndex``.
        files: their n names.
        works: names of the works, by ``Nearest.index``.
        cuts: the detector's.
        against: which works these are.
        policy: ``flag`` passes whatever is found.
    """
    hits = [
        CopyHit(
            file_name=file,
            work=works[one.index],
            similarity=round(one.similarity, 4),
            distance=one.distance,
            plain=one.plain,
            copied=one.copied,
            verbatim=one.verbatim,
        )
        for one, file in zip(found, files, strict=True)
    ]
    copied = sum(hit.copied for hit in hits)
    verbatim = sum(hit.verbatim for hit in hits)
    plain = sum(hit.plain for hit in hits)
    by_chance = chance_of(copied, len(hits), cuts.chance)
    clean = bool(hits) and verbatim == 0 and by_chance >= LEAST_CHANCE
    worst = sorted(hits, key=lambda hit: (hit.verbatim, hit.copied, hit.similarity), reverse=True)
    return CopyrightCheck(
        against=against,
        works=len(works),
        n=len(hits),
        plain_hits=plain,
        plain_high=upper_bound(plain, len(hits)),
        calibrated_hits=copied,
        calibrated_high=upper_bound(copied, len(hits)),
        verbatim_hits=verbatim,
        chance=cuts.chance,
        cosine_cut=cuts.cosine,
        bits_cut=cuts.bits,
        calibrated_on=cuts.calibrated_on,
        policy=policy,
        passed=clean or policy == "flag",
        worst=tuple(worst[:WORST]),
        note=_note(copied, len(hits), cuts, by_chance),
    )


def upper_bound(hits: int, n: int) -> float:
    """Upper end of the one-sided 95% interval of a share (Clopper–Pearson); 1 for n = 0."""
    from scipy.stats import beta

    return 1.0 if hits >= n else float(beta.ppf(CONFIDENCE, hits + 1, n - hits))


def chance_of(hits: int, n: int, chance: float) -> float:
    """Probability of at least ``hits`` among n originals, each taken with ``chance``."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, n, chance))


def _note(copied: int, n: int, cuts: Cuts, by_chance: float) -> str:
    return (
        f"{copied} of {n} by embedding (cosine ≥ {cuts.cosine:.3f}) and hash (≤ {cuts.bits} of 64 "
        f"bits), cuts from {cuts.calibrated_on} originals, of which up to {cuts.chance:.1%} are "
        f"taken for copies: as many or more by chance with probability {by_chance:.2f}"
    )
