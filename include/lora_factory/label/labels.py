"""Labels of all items and of the set, from what was seen and what was said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.imaging.agreement import Agreement, agreement
from lora_factory.label import zero_shot
from lora_factory.label.captions import theme_phrase
from lora_factory.label.taxonomy import UNKNOWN, Manner, Taxonomy, Tone
from lora_factory.label.zero_shot import Named

if TYPE_CHECKING:
    from lora_factory.label.look import Looks
    from lora_factory.label.zero_shot import Floats
    from lora_factory.models.roles import ImageTextScorer, TextEmbedder, Vectors

MANY = 0.5
"""Share of items that makes a theme the set's own, and a page title the site's."""
CLOSEST = 20
"""Words that an item may be given of all that are at hand."""
HEADING = 0.3
"""Weight of a page's heading beside an item's subject ("hot dog" in "Meals and snacks")."""


@dataclass(frozen=True)
class Labelled:
    """Labels of n items and of the set.

    ``subjects``: n×k in the text embedder's space, ``spoken``: whether there is one.
    ``agreement``: of pictures and subjects, by the scorer. The weights are those of the
    pictures' evidence, in [0, 1].
    """

    themes: tuple[Named, ...]
    styles: tuple[str, ...]
    schools: tuple[str, ...]
    style: str
    subjects: Vectors
    spoken: tuple[bool, ...]
    agreement: Agreement
    theme_weight: float
    style_weight: float


@dataclass(frozen=True)
class Labeler:
    """Role ``labeler``, kind ``zero-shot`` (the article's ``AutoLabeler`` without an LLM)."""

    taxonomy: Taxonomy
    scorer: ImageTextScorer
    embedder: TextEmbedder

    def generate_tags(
        self,
        looks: Looks,
        subjects: Sequence[str],
        titles: Sequence[str],
        topics: Sequence[str],
    ) -> Labelled:
        """Label n items.

        Args:
            looks: of the n pictures.
            subjects: what their texts say they show; empty: nothing.
            titles: of their pages.
            topics: of the run.
        """
        taxonomy = self.taxonomy
        said = [subject for subject in subjects if subject]
        spoken = np.array([bool(subject) for subject in subjects])
        agreed = agreement(looks.vectors[spoken], self.scorer.embed_texts(said))
        pairs = taxonomy.theme_synonyms(), taxonomy.style_synonyms()
        known, stylish = (agreed.weight * self.vocabulary(each).weight for each in pairs)
        embedded = self.embedder.encode(list(subjects))
        rows = self.themes(looks, embedded * spoken[:, None], headings(titles), known)
        words = [" | ".join((*topics, *pair)) for pair in zip(subjects, titles, strict=True)]
        style = self.manners(looks, words, taxonomy.styles, stylish)
        school = self.manners(looks, words, taxonomy.schools, stylish)
        return Labelled(
            themes=tuple(zero_shot.name_themes(rows, taxonomy)),
            styles=_names(style, taxonomy.styles),
            schools=_names(school, taxonomy.schools),
            style=zero_shot.name_manner(style.mean(axis=0), list(taxonomy.styles)).labels[0],
            subjects=embedded,
            spoken=tuple(spoken.tolist()),
            agreement=agreed,
            theme_weight=known,
            style_weight=stylish,
        )

    def closest(
        self, looks: Looks, labelled: Labelled, rows: Sequence[int], words: Sequence[str]
    ) -> dict[int, list[str]]:
        """Row → the ``CLOSEST`` words, best first.

        Evidence weighs as in themes; where there is none the order stays.
        """
        if not rows:
            return {}
        logits = np.zeros((len(rows), len(words)))
        subjects = labelled.subjects[rows]
        spoken = np.array([labelled.spoken[row] for row in rows])
        if spoken.any():
            logits[spoken] = zero_shot.evidence(subjects[spoken], self.embedder.encode(words))
        if labelled.theme_weight > 0:
            seen = zero_shot.evidence(looks.vectors[rows], self.scorer.embed_texts(words))
            logits += labelled.theme_weight * seen
        order = np.argsort(-logits, axis=1, kind="stable")[:, :CLOSEST]
        return {
            row: [words[at] for at in best] for row, best in zip(rows, order.tolist(), strict=True)
        }

    def vocabulary(self, pairs: Sequence[tuple[str, str]]) -> Agreement:
        """Does the scorer know what the labels' words mean? Names against synonyms.

        A scorer can match every picture with its caption and still never have read the word
        "watercolor"; its cosines with that word are then about nothing.
        """
        first, second = zip(*pairs, strict=True)
        return agreement(self.scorer.embed_texts(first), self.scorer.embed_texts(second))

    def themes(
        self, looks: Looks, subjects: Vectors, titles: Sequence[str], weight: float
    ) -> Floats:
        """n×(themes+1) probabilities: a product of two experts.

        ``subjects``: zero rows where there is none; an item without subject and heading gets
        nothing from words.
        """
        themes = self.taxonomy.themes
        spoken = np.array([[bool(title)] for title in titles])
        words = subjects + HEADING * spoken * self.embedder.encode(list(titles))
        length = np.linalg.norm(words, axis=1, keepdims=True)
        units: Vectors = (words / np.maximum(length, 1e-6)).astype(np.float32)
        said = length[:, 0] > 0
        logits = np.zeros((len(units), len(themes) + 1))
        if said.any():
            labels = zero_shot.prototypes(themes, self.embedder.encode)
            logits[said] = zero_shot.evidence(units[said], labels)
        if weight > 0:
            labels = zero_shot.prototypes(themes, self.scorer.embed_texts, zero_shot.TEMPLATES)
            logits += weight * zero_shot.evidence(looks.vectors, labels)
        return zero_shot.softmax(logits)

    def manners(
        self, looks: Looks, words: Sequence[str], manners: dict[str, Manner], weight: float
    ) -> Floats:
        """n×(k+1) probabilities of styles or schools.

        Pictures speak as one, by their mean: what single ones show cancels out, and a LoRA's
        images are meant to share a style. Words and tone speak for each.
        """
        picture = np.zeros((len(words), len(manners) + 1))
        if weight > 0:
            labels = zero_shot.manner_prototypes(manners, self.scorer.embed_texts)
            picture += weight * zero_shot.evidence(looks.vectors, labels).mean(axis=0)
        named = zero_shot.mentions(words, manners, looks.tones)
        return zero_shot.manner_probabilities(picture, named, manners, looks.tones)


def headings(titles: Sequence[str]) -> list[str]:
    """What a title says of its own page: its first part; empty where half of the set share it."""
    parts = [re.split(r"[:|•–—]| - ", title, maxsplit=1)[0].strip()[:100] for title in titles]
    counts = Counter(parts)
    return [part if counts[part] < MANY * len(parts) else "" for part in parts]


def _names(rows: Floats, manners: dict[str, Manner]) -> tuple[str, ...]:
    return tuple(zero_shot.name_manner(row, list(manners)).labels[0] for row in rows)


def theme_of_set(themes: Sequence[Named], taxonomy: Taxonomy, topics: Sequence[str]) -> str:
    """One phrase for the whole set.

    The narrowest theme that half of the items share; else the two most frequent top themes
    ("animals and food"); else the first topic.
    """
    half = MANY * len(themes)
    counts = Counter(label for named in themes for label in named.labels)
    shared = [name for name, count in counts.items() if count >= half]
    if shared:
        return max(shared, key=lambda name: (len(taxonomy.path(name)), counts[name], name))
    tops = Counter(named.labels[-1] for named in themes if named.labels)
    return theme_phrase([name for name, _ in tops.most_common(2)]) or topics[0].lower()


def style_of_set(style: str, tones: Sequence[Tone], topics: Sequence[str]) -> str:
    """The set's style, or words for it where the labels don't know.

    Evaluation's prompts say "in the style of …", where "unknown" would be noise: what can be
    measured (black and white, or no colour) before what the user called the pictures.
    """
    if style != UNKNOWN:
        return style
    tone = Counter(tones).most_common(1)[0][0]
    manner = {"bilevel": "black and white ", "grey": "monochrome ", "colour": ""}[tone]
    return manner + " ".join(topics[0].lower().split()[:4])
