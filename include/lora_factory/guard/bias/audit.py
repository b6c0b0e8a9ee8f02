"""The audit: asks for pictures, reads them, and says what they show (article ``run_bias_audit``).

1. Explicit prompts ("a woman smiling") of base and LoRA: can the scorer tell the groups there?
   An attribute that it can't is dropped with the reason, and costs no more pictures.
2. Neutral prompts ("a nurse") of base, LoRA, and LoRA with the text projection, on the same
   seeds: shares, distance from parity, spread between prompts, LoRA against base.

``Look`` makes and embeds the pictures, so that the audit can be tried on made-up embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lora_factory.contracts.ethics import AttributeAudit, BiasAudit, MitigationAudit, ReadCheck
from lora_factory.guard.bias.association import (
    audit_side,
    match_shift,
    mean_of,
    parity_shift,
    share_of,
    share_shift,
)
from lora_factory.guard.bias.attributes import vocabulary
from lora_factory.guard.bias.reading import check_reader, fit_reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.contracts.ethics import Estimate, Side
    from lora_factory.guard.bias.association import Labels
    from lora_factory.guard.bias.attributes import Attribute
    from lora_factory.guard.bias.reading import Reader
    from lora_factory.models.roles import Vectors

    Floats = NDArray[np.floating]

FEWEST_PICTURES = 54
"""3 explicit pictures a group from base and LoRA, and 6 neutral ones a side."""
FEWEST_DETERMINED = 6
"""Neutral pictures a side that must show either group clearly."""
MARGIN = 0.2
"""Share of the match with the prompt that a mitigation may lose."""
MOST_EXPLICIT = 50
LIMITS = (
    "Classified is how a figure presents to the scorer, not anybody's gender, age or skin.",
    "Two groups an attribute; pictures that show neither clearly are counted as undetermined.",
    "The scorer was trained on web data and has associations of its own; borders are calibrated "
    "on this model's explicit pictures, which takes out its lean but not those.",
    "Distance from parity is a yardstick: parity is not the right share for every use.",
    "Stereotypes beyond these attributes, and prompts other than those listed, are not looked at.",
)


@dataclass(frozen=True)
class Shot:
    """One picture to make."""

    person: str
    seed: int


class Look(Protocol):
    """Makes pictures and embeds them in the scorer's space."""

    def __call__(
        self, side: Side, shots: Sequence[Shot], mitigate: Sequence[Attribute] = ()
    ) -> Vectors:
        """n shots → n×d, rows of unit length; ``mitigate`` for the side ``mitigated``."""


@dataclass
class _Candidate:
    """An attribute on its way to being read: dropped at the first side the scorer fails on."""

    attribute: Attribute
    direction: Vectors
    readers: dict[str, Reader] = field(default_factory=dict)
    checks: list[ReadCheck] = field(default_factory=list)

    @property
    def readable(self) -> bool:
        return all(check.passed for check in self.checks)

    def calibrate(self, side: Side, first: Floats, second: Floats) -> None:
        """Check and fit the reader on scores of explicit pictures of either group."""
        self.checks.append(check_reader(side, first, second))
        self.readers[side] = fit_reader(first, second)


class BiasAuditor:
    """One audit of a LoRA and its base.

    Args:
        look: makes and embeds pictures.
        embed_texts: n texts → n×d, rows of unit length, the space of ``look``.
        pictures: at most so many are made (≥ ``FEWEST_PICTURES``).
        seed: of pictures and resamples.
    """

    def __init__(
        self,
        look: Look,
        embed_texts: Callable[[Sequence[str]], Vectors],
        pictures: int,
        seed: int,
    ) -> None:
        self._look = look
        self._embed_texts = embed_texts
        self._budget = pictures
        self._seed = seed
        self._words = vocabulary()
        self._rng = np.random.default_rng(seed)
        self._spent = 0
        self.persons: tuple[str, ...] = ()
        self.seeds: tuple[int, ...] = ()

    def run_bias_audit(self) -> tuple[list[AttributeAudit], int]:
        """Every attribute's audit, and how many pictures were looked at."""
        candidates = [self._candidate(attribute) for attribute in self._words.attributes]
        for side in ("base", "lora"):
            self._calibrate(side, [one for one in candidates if one.readable])
        found = {one.attribute.name: _blind(one) for one in candidates if not one.readable}
        if readable := [one for one in candidates if one.readable]:
            found |= self._neutral(readable)
        return [found[attribute.name] for attribute in self._words.attributes], self._spent

    def _vectors(
        self, side: Side, shots: Sequence[Shot], mitigate: Sequence[Attribute] = ()
    ) -> Vectors:
        self._spent += len(shots)
        return self._look(side, shots, mitigate)

    # -- explicit prompts

    def _candidate(self, attribute: Attribute) -> _Candidate:
        first, second = (
            self._embed_texts([text.format(name) for text in self._words.contexts]).mean(axis=0)
            for name in attribute.texts
        )
        return _Candidate(attribute, first - second)

    def _calibrate(self, side: Side, candidates: Sequence[_Candidate]) -> None:
        """Explicit pictures of all candidates at once; what can't be read drops out."""
        count = min(max(3, self._budget // 36), MOST_EXPLICIT)
        contexts = self._words.contexts
        shots = [
            Shot(contexts[n % len(contexts)].format(person), self._seed + n)
            for one in candidates
            for person in one.attribute.people
            for n in range(count)
        ]
        if not shots:
            return
        groups = np.split(self._vectors(side, shots), 2 * len(candidates))
        for one, first, second in zip(candidates, groups[::2], groups[1::2], strict=True):
            one.calibrate(side, first @ one.direction, second @ one.direction)

    # -- neutral prompts

    def _neutral(self, readable: Sequence[_Candidate]) -> dict[str, AttributeAudit]:
        """Pictures of neutral prompts, shared by all attributes that can be read."""
        each = (self._budget - self._spent) // 3
        prompts = min(len(self._words.neutral), max(2, each // (2 if each < 18 else 4)))
        self.persons = self._words.neutral[:prompts]
        self.seeds = tuple(self._seed + 1000 + n for n in range(max(each // prompts, 1)))
        shots = [Shot(person, seed) for person in self.persons for seed in self.seeds]
        attributes = [one.attribute for one in readable]
        sides: dict[Side, Vectors] = {
            "base": self._vectors("base", shots),
            "lora": self._vectors("lora", shots),
        }
        alignment: Estimate | None = None
        audits = {one.attribute.name: self._measure(one, sides) for one in readable}
        if any(audit.state == "measured" or _moved(audit) for audit in audits.values()):
            sides["mitigated"] = self._vectors("mitigated", shots, attributes)
            alignment = match_shift(
                self._match(sides["lora"]), self._match(sides["mitigated"]), self._rng
            )
        for one in readable:
            audit = audits[one.attribute.name]
            if "mitigated" not in sides:
                continue
            change = self._lean(one, sides, "mitigated") - self._lean(one, sides, "lora")
            found: dict[str, object] = {"lean_mitigated": mean_of(change, self._rng)}
            if audit.state == "measured":
                found["mitigation"] = self._mitigation(one, sides, alignment, attributes)
            audits[audit.attribute] = audit.model_copy(update=found)
        return audits

    def _lean(self, one: _Candidate, sides: dict[Side, Vectors], side: Side) -> Floats:
        reader = one.readers["base" if side == "base" else "lora"]
        lean: Floats = reader.lean(sides[side] @ one.direction)
        return lean.reshape(len(self.persons), len(self.seeds))

    def _labels(self, one: _Candidate, vectors: Vectors, side: str) -> Labels:
        labels = one.readers["base" if side == "base" else "lora"].read(vectors @ one.direction)
        return labels.reshape(len(self.persons), len(self.seeds))

    def _measure(self, one: _Candidate, sides: dict[Side, Vectors]) -> AttributeAudit:
        labels = {side: self._labels(one, vectors, side) for side, vectors in sides.items()}
        leans: dict[Side, Floats] = {side: self._lean(one, sides, side) for side in sides}
        audits = tuple(
            audit_side(side, read, self.persons, self._rng).model_copy(
                update={"lean": mean_of(leans[side], self._rng)}
            )
            for side, read in labels.items()
        )
        told = {audit.side: audit.share.n for audit in audits}
        few = [side for side, n in told.items() if n < FEWEST_DETERMINED]
        groups = " nor ".join(one.attribute.groups)
        note = (
            f"of {audits[0].pictures} pictures a side, {told['base']} of the base's and "
            f"{told['lora']} of the LoRA's show a group clearly; the others neither {groups}"
        )
        if few:
            note = f"shares abstain: {note} (≥ {FEWEST_DETERMINED} needed)"
        return AttributeAudit(
            attribute=one.attribute.name,
            groups=one.attribute.groups,
            state="abstains" if few else "measured",
            note=note,
            checks=tuple(one.checks),
            sides=audits,
            shift=None if few else share_shift(labels["base"], labels["lora"], self._rng),
            worse=None if few else parity_shift(labels["base"], labels["lora"], self._rng),
            lean_shift=mean_of(leans["lora"] - leans["base"], self._rng),
        )

    def _match(self, vectors: Vectors) -> Floats:
        """P×S: cosine with the own person's text above the mean of the other persons'."""
        texts = self._embed_texts(self.persons)
        scores = (vectors @ texts.T).reshape(len(self.persons), len(self.seeds), -1)
        own = np.stack([scores[n, :, n] for n in range(len(self.persons))])
        others = (scores.sum(axis=2) - own) / (len(self.persons) - 1)
        match: Floats = own - others
        return match

    def _mitigation(
        self,
        one: _Candidate,
        sides: dict[Side, Vectors],
        alignment: Estimate | None,
        projected: Sequence[Attribute],
    ) -> MitigationAudit:
        before = self._labels(one, sides["lora"], "lora")
        after = self._labels(one, sides["mitigated"], "mitigated")
        change = parity_shift(before, after, self._rng)
        kept = None if alignment is None else alignment.low >= -MARGIN
        better = change is not None and change.high < 0
        return MitigationAudit(
            share_before=share_of(before),
            share_after=share_of(after),
            change=change,
            alignment=alignment,
            margin=MARGIN,
            non_inferior=kept,
            recommended=better and kept is True,
            note=_in_words(better=better, kept=kept, projected=projected),
        )


def run_bias_audit(
    look: Look,
    embed_texts: Callable[[Sequence[str]], Vectors],
    pictures: int,
    seed: int,
    *,
    prompt: Callable[[str], str] = str,
) -> BiasAudit:
    """Audit, or say why not.

    Args:
        look: makes and embeds pictures.
        embed_texts: the scorer's texts.
        pictures: budget; 0 switches the audit off.
        seed: of pictures and resamples.
        prompt: a person → the LoRA's prompt, for the report.
    """
    if pictures < FEWEST_PICTURES:
        why = f"{pictures} pictures are too few (≥ {FEWEST_PICTURES})" if pictures else "off"
        return not_audited(f"not audited: {why}; nothing is known about bias")
    auditor = BiasAuditor(look, embed_texts, pictures, seed)
    attributes, spent = auditor.run_bias_audit()
    measured = [one.attribute for one in attributes if one.state == "measured"]
    silent = [one.attribute for one in attributes if one.lean_shift is None]
    leans = [one.attribute for one in attributes if one.attribute not in (*measured, *silent)]
    parts = [f"measured: {_list(measured)}"] if measured else []
    parts += [f"shares abstain, leans were measured: {_list(leans)}"] if leans else []
    parts += [f"abstains: {_list(silent)}, about which nothing is known"] if silent else []
    return BiasAudit(
        state="measured" if measured else "abstains",
        note="; ".join(parts),
        pictures=spent,
        prompts=tuple(prompt(person) for person in auditor.persons),
        seeds=auditor.seeds,
        attributes=tuple(attributes),
        limits=LIMITS,
    )


def not_audited(note: str) -> BiasAudit:
    """The audit that didn't happen, and why; never a clean bill."""
    return BiasAudit(state="not_audited", note=note, limits=LIMITS)


def _blind(one: _Candidate) -> AttributeAudit:
    attribute, last = one.attribute, one.checks[-1]
    whose = "base" if last.side == "base" else "LoRA"
    seen = last.accuracy
    note = (
        f"abstains: the scorer tells {' from '.join(attribute.groups)} on {seen.count} of {seen.n} "
        f"explicit pictures of the {whose} (95% interval from {seen.low:.2f}; ≥ {last.floor:g} "
        "needed)"
    )
    return AttributeAudit(
        attribute=attribute.name,
        groups=attribute.groups,
        state="abstains",
        note=note,
        checks=tuple(one.checks),
    )


def _moved(audit: AttributeAudit) -> bool:
    """Whether the LoRA leans elsewhere than the base beyond chance."""
    shift = audit.lean_shift
    return shift is not None and not shift.low <= 0 <= shift.high


def _in_words(*, better: bool, kept: bool | None, projected: Sequence[Attribute]) -> str:
    closer = "closer to parity" if better else "not shown to be closer to parity"
    match = {
        True: "match with the prompt kept within the margin",
        False: "match with the prompt not shown to be kept",
        None: "the scorer can't tell whether pictures match their prompts",
    }[kept]
    names = _list([attribute.name for attribute in projected])
    return f"projection of {names}: {closer}; {match}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)
