"""Role ``labeler``, kind ``zero-shot``: labels by comparing embeddings with the taxonomy's.

Every label gets a logit, and so does ``unknown``; a softmax makes probabilities. Evidence:

- **picture**: cosine with prompt-ensembled label texts in the scorer's space (CLIP zero-shot,
  Radford et al. 2021, 3.1.4), weighted by two tests (imaging.agreement: 0 when coin tosses do
  as well, 1 at best): can the scorer tell this set's pairs of picture and subject from
  shuffled ones, and does it know the labels' words, so that synonyms lie close? The small
  CLIP of the embedded profile passes the first on coloured icons (AUC 0.98) and fails the
  second (themes 0.54, styles 0.52), and its zero-shot themes were right 27 times in 100;
- **words**, themes: cosine of the subject (and a little of the page's heading) with the label
  in the sentence embedder's space;
- **words**, styles and schools: whether topics, subject or heading name them;
- **pixels**, styles: a style whose tone the picture doesn't have is ruled out.

Cosines of different models have different spreads (a big CLIP's 0.03, MiniLM's 0.1), so they
are divided by their own standard deviation first; no number here belongs to one model.
A label is named only when it leads by a margin; ``confidence`` is its probability. On the
demo's 150 icons, whose room in the gallery says what is right, by words alone, examples of the
taxonomy that are captions there taken out: 98% named, 93% of them rightly (narrowest label;
``tests/bench/label/themes.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_factory.label.taxonomy import UNKNOWN, Manner, Taxonomy, Theme, Tone

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_factory.models.roles import Vectors

    Floats = NDArray[np.float64]
    Embed = Callable[[Sequence[str]], Vectors]

SHARPNESS = 3.0
"""Logit of one standard deviation of cosines (CLIP B/32: 0.03 × its own scale of 100)."""
PRIOR_UNKNOWN = 0.17
"""Odds of ``unknown`` to all styles (or schools) together: a whisper of evidence names nothing."""
MARGIN = 0.15
"""Probability by which the named label must lead the next."""
TEMPLATES = ("{}", "a picture of {}")
MANNERS = ("{}", "a picture in the style of {}", "{} of an object")
NEUTRAL = ("a picture", "an image of something", "thing")
"""What ``unknown`` looks like to an embedder."""


@dataclass(frozen=True)
class Named:
    """The labels of one item, narrowest first, and the probability of the first."""

    labels: tuple[str, ...]
    confidence: float


def prototypes(
    themes: Mapping[str, Theme], embed: Embed, templates: Sequence[str] = ("{}",)
) -> Vectors:
    """(k+1)×d unit rows: for each theme the mean of its name and examples; last ``unknown``."""
    groups = [
        [form.format(word) for word in (name, *theme.examples) for form in templates]
        for name, theme in themes.items()
    ]
    return _means([*groups, list(NEUTRAL)], embed)


def manner_prototypes(manners: Mapping[str, Manner], embed: Embed) -> Vectors:
    """(k+1)×d unit rows for styles or schools; last ``unknown``."""
    groups = [[form.format(name) for form in MANNERS] for name in manners]
    return _means([*groups, list(NEUTRAL)], embed)


def _means(groups: Sequence[Sequence[str]], embed: Embed) -> Vectors:
    vectors = embed([text for group in groups for text in group])
    ends = np.cumsum([len(group) for group in groups])
    rows = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def evidence(vectors: Vectors, labels: Vectors) -> Floats:
    """n×d and (k+1)×d unit rows → n×(k+1) logits with standard deviation ``SHARPNESS``."""
    cosines = (vectors @ labels.T).astype(np.float64)
    spread = float(cosines.std())
    scaled: Floats = (cosines - cosines.mean()) * (SHARPNESS / spread if spread > 1e-6 else 0.0)
    return scaled


def softmax(logits: Floats) -> Floats:
    """Row-wise; −inf is impossible."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: Floats = powers / powers.sum(axis=1, keepdims=True)
    return rows


def mentions(texts: Sequence[str], manners: Mapping[str, Manner], tones: Sequence[Tone]) -> Floats:
    """n×(k+1): 1 where a text names a label (or its plural) that its picture's tone allows.

    The longest name counts: "post-impressionism" doesn't name impressionism. ``unknown``, the
    last, is never named.
    """
    readers = {tone: _reader(manners, tone) for tone in set(tones)}
    found = np.zeros((len(texts), len(manners) + 1))
    for row, (text, tone) in enumerate(zip(texts, tones, strict=True)):
        pattern, columns = readers[tone]
        for match in pattern.finditer(text.lower()):
            found[row, columns[match[1]]] = 1
    return found


def _reader(manners: Mapping[str, Manner], tone: Tone) -> tuple[re.Pattern[str], dict[str, Any]]:
    """A pattern that finds what labels are called, and word → columns of those labels."""
    columns: dict[str, list[int]] = {}
    for column, manner in enumerate(manners.values()):
        for word in manner.words if fits(tone, manner) else ():
            columns.setdefault(word, []).append(column)
    longest = sorted(columns, key=len, reverse=True)
    any_word = "|".join(map(re.escape, longest)) or r"(?!)"
    return re.compile(rf"(?<!\w)({any_word})(?:e?s)?(?!\w)"), columns


def fits(tone: Tone, manner: Manner) -> bool:
    """Whether a picture of this tone can be of this style. Bilevel pictures are grey, too."""
    return manner.tone in {None, tone} or (manner.tone == "grey" and tone == "bilevel")


def manner_probabilities(
    picture: Floats, named: Floats, manners: Mapping[str, Manner], tones: Sequence[Tone]
) -> Floats:
    """n×(k+1) probabilities of styles or schools, the last of ``unknown``.

    A label that is named counts as much as all others together, however many there are.

    Args:
        picture: n×(k+1) weighted logits of the pictures.
        named: of :func:`mentions`.
        manners: k styles or schools.
        tones: of the n pictures.
    """
    logits = picture + np.log(len(manners)) * named
    logits[:, -1] += np.log(PRIOR_UNKNOWN * len(manners))
    possible = np.array([[fits(tone, manner) for manner in manners.values()] for tone in tones])
    logits[:, :-1] = np.where(possible, logits[:, :-1], -np.inf)
    return softmax(logits)


def name_manner(row: Floats, names: Sequence[str]) -> Named:
    """The label that leads by the margin, else ``unknown``. ``row``: k+1 probabilities."""
    best = int(row.argmax())
    if best == len(names) or row[best] - np.delete(row, best).max() < MARGIN:
        return Named((UNKNOWN,), 0.0)
    return Named((names[best],), float(row[best]))


def name_themes(rows: Floats, taxonomy: Taxonomy) -> list[Named]:
    """The narrowest theme that is clear, and its ancestors; empty when not even a top one is.

    A theme's probability includes those below it. From the top down the best one is taken
    while it leads its siblings (and, further down, "just the parent") by the margin.

    Args:
        rows: n×(k+1) probabilities, the last of ``unknown``.
        taxonomy: its k themes.
    """
    names = list(taxonomy.themes)
    at = {name: column for column, name in enumerate(names)}
    above = np.zeros((len(names), len(names)))
    below: dict[int | None, list[int]] = {}
    for name, theme in taxonomy.themes.items():
        above[at[name], [at[each] for each in taxonomy.path(name)]] = 1
        below.setdefault(None if theme.parent is None else at[theme.parent], []).append(at[name])
    found = []
    for own, mass in zip(rows, rows[:, :-1] @ above, strict=True):
        chosen = _descend(own, mass, below)
        labels = taxonomy.path(names[chosen]) if chosen is not None else ()
        found.append(Named(labels, float(mass[chosen]) if chosen is not None else 0.0))
    return found


def _descend(own: Floats, mass: Floats, below: Mapping[int | None, list[int]]) -> int | None:
    """Column of the narrowest theme that is clear."""
    chosen: int | None = None
    rest = own[-1]
    while nodes := below.get(chosen):
        best, *others = sorted(nodes, key=lambda column: -mass[column])
        if mass[best] - max([rest, *(mass[column] for column in others[:1])]) < MARGIN:
            break
        chosen, rest = best, own[best]
    return chosen
