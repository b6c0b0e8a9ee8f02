"""Keywords by TF–IDF (article, 2.2: five to eight).

scikit-learn's, not a keyword package: a caption of three words has no statistics of its own
(YAKE, RAKE), what tells pictures of one set apart is how rare a word is in the set. YAKE is
LGPL by one file of its wheel and GPL by another; KeyBERT ranks by embeddings, which put "red
fruit" before "apple". An item whose texts hold fewer than five such words gets the closest of
the set's words and the taxonomy's names (:func:`padded`): none is made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PER_ITEM = 8
PER_DATASET = 8
FEWEST = 5
COMMON = 0.5
"""A word in more than this share of the texts tells nothing of one of them."""
BOILERPLATE = 0.8
"""A word in more than this share of the texts is the site's, not the pictures'."""
WORD = r"(?u)\b[^\W\d_][^\W_'-]*(?:['-][^\W_]+)*\b"
LONGEST = 30
VOCABULARY = 128
"""Words of a set that items may be given."""


def words_of(text: str) -> list[str]:
    """The words that may be keywords, in order: lower case, no stop words, 2 to 30 letters."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return [
        word
        for word in TfidfVectorizer(token_pattern=WORD, stop_words="english").build_analyzer()(text)
        if 2 <= len(word) <= LONGEST
    ]


def keywords(
    subjects: Sequence[str], contexts: Sequence[str], topics: Sequence[str]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Keywords of each item and of the dataset.

    Args:
        subjects: of n items; their words count twice.
        contexts: n further texts (the whole found text, theme names).
        topics: of the run; their words open the dataset's list.

    Returns:
        n tuples of at most 8 words (the most telling first; empty where there are none), and
        up to 8 of the dataset: 5 or more where its texts hold so many different words.
    """
    documents = [
        words_of(f"{subject} {subject} {context}")
        for subject, context in zip(subjects, contexts, strict=True)
    ]
    opening = list(dict.fromkeys(word for topic in topics for word in words_of(topic)))
    if not any(documents):
        return [() for _ in documents], tuple(opening[:PER_DATASET])
    return _rank(documents, opening)


def vocabulary(
    each: Sequence[Sequence[str]], themes: Sequence[Sequence[str]], names: Iterable[str]
) -> tuple[str, ...]:
    """What an item may be given that says too little of itself, most frequent first.

    Args:
        each: keywords of n items.
        themes: paths of the n items' themes.
        names: of all themes; those that the set doesn't have come last.
    """
    counts = Counter(word for words in (*themes, *each) for word in words)
    known = [word for word, _ in counts.most_common(VOCABULARY)]
    return tuple(dict.fromkeys([*known, *names]))


def padded(own: Sequence[str], said: Iterable[str], closest: Iterable[str]) -> tuple[str, ...]:
    """``own`` keywords; where they are fewer than five, as many more.

    Args:
        own: of the item, the most telling first.
        said: what else is known of it: its themes, style, school, the run's topics.
        closest: of :func:`vocabulary`, best first.
    """
    found = list(dict.fromkeys(own))
    forms = {form for word in found for form in (word, f"{word}s")}  # "dog" says what "dogs" does
    for word in (*said, *closest):
        if len(found) >= FEWEST:
            break
        if not forms & {word, f"{word}s"}:
            found.append(word)
            forms |= {word, f"{word}s"}
    return tuple(found)


def _rank(
    documents: Sequence[Sequence[str]], opening: Sequence[str]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True)
    scores = vectorizer.fit_transform(documents)
    vocabulary = vectorizer.get_feature_names_out()
    share = np.asarray((scores > 0).mean(axis=0)).ravel()
    each = []
    for row in range(len(documents)):
        found = scores[[row]].tocoo()
        telling = [
            (-score, documents[row].index(vocabulary[word]), vocabulary[word])
            for word, score in zip(found.coords[1], found.data, strict=True)
            if share[word] <= COMMON or len(documents) < FEWEST
        ]
        each.append(tuple(str(word) for _, _, word in sorted(telling)[:PER_ITEM]))
    total = np.asarray(scores.sum(axis=0)).ravel()
    order = sorted(range(len(vocabulary)), key=lambda word: (-total[word], vocabulary[word]))
    shared = [str(vocabulary[w]) for w in order if 1 / len(documents) < share[w] <= BOILERPLATE]
    single = [str(vocabulary[w]) for w in order]
    chosen = list(dict.fromkeys([*opening[:FEWEST], *shared]))[:PER_DATASET]
    if len(chosen) < FEWEST:
        chosen = list(dict.fromkeys([*chosen, *single]))[:FEWEST]
    return each, tuple(chosen)
