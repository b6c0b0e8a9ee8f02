"""Is a page worth keeping? Its words, their repetition, advertisements, language.

The rules beyond the article's are Gopher's (Rae et al. 2021, appendix A.1.1), with its
thresholds but for two: it asks for 50 words of a text to learn language from, and what is said
around pictures is shorter; and its 0.15 of repeated runs drops one page in ten of a manual with
listings (Debian's handbook), so here it is 0.3. Thresholds are fields of CrawlRequest.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_factory.contracts.specs import CrawlRequest
    from lora_factory.crawl.extract import Page

# Chinese and Japanese put no spaces between words: a character counts as one.
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W_{_CJK}]+"
WORDS = re.compile(rf"[{_CJK}]|{_WORD}(?:['’]{_WORD})*")
UNSPACED = re.compile(rf"[{_CJK}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Also Thai, Lao, Burmese and Khmer, where a run of characters is a phrase and no word."""
LANGUAGE_SAMPLE = 5000  # characters
NGRAM = 5  # words
FEW_LINES = 10  # a text of fewer says nothing by repeating one
Fault = tuple[str, str]


def words(text: str) -> list[str]:
    """Words of a text in lower case."""
    return WORDS.findall(text.lower())


def word_entropy(found: Sequence[str]) -> float:
    """Shannon entropy of the word distribution, bits; 0 for no words.

    The article (1.1) asks for > 5.0 of the *characters*. English letters carry about 4.1 bits
    and no prose reaches 5, so that test would drop every page, good or bad. Over words the same
    number does what is meant: 5 bits need 32 different words used evenly; a paragraph of real
    prose has 6 to 7, a page of repeated keywords 1 to 3.
    """
    total = len(found)
    if not total:
        return 0.0
    return -sum(n / total * math.log2(n / total) for n in Counter(found).values()) + 0.0


def ad_ratio(ads: int, word_count: int) -> float:
    """Advertising elements a word (article, 1.1)."""
    return ads / max(word_count, 1)


def mean_word_length(found: Sequence[str]) -> float:
    """Characters a word, of those in scripts that put spaces between words; 0 for none."""
    lengths = [len(word) for word in found if not UNSPACED.match(word)]
    return sum(lengths) / len(lengths) if lengths else 0.0


def repeated_lines(text: str) -> float:
    """Share of lines that were there before, in [0, 1]; 0 for a text of few lines."""
    lines = text.splitlines()
    if len(lines) < FEW_LINES:
        return 0.0
    return 1 - len(set(lines)) / len(lines)


def repeated_ngrams(found: Sequence[str]) -> float:
    """Share of characters in runs of five words that occur more than once, in [0, 1].

    Each character counts once, however many runs it is in; Gopher's first occurrence of a run
    doesn't count, here neither.
    """
    total = sum(map(len, found))
    if len(found) < NGRAM or not total:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    counted, until = 0, 0
    for start in range(len(found) - NGRAM + 1):
        run = tuple(found[start : start + NGRAM])
        if run in seen:
            counted += sum(map(len, found[max(start, until) : start + NGRAM]))
            until = start + NGRAM
        else:
            seen.add(run)
    return counted / total


def language(text: str) -> str:
    """ISO 639-1 code of the language a text is most likely in."""
    from py3langid import classify

    return str(classify(text[:LANGUAGE_SAMPLE])[0])


def fault(page: Page, spec: CrawlRequest) -> Fault | None:
    """Reason code and detail of the first thing wrong with a page; None for a good one."""
    found = words(page.text)
    rules: tuple[Callable[[], Fault | None], ...] = (
        lambda: _entropy(found, spec),
        lambda: _length(found, spec),
        lambda: _repetition(page.text, found, spec),
        lambda: _ads(page, spec),
        lambda: _language(page.text, spec),
    )
    return next((wrong for rule in rules if (wrong := rule())), None)


def _entropy(found: Sequence[str], spec: CrawlRequest) -> Fault | None:
    entropy = word_entropy(found)
    if entropy > spec.min_entropy:
        return None
    return "low_entropy", f"{entropy:.2f} bits, must exceed {spec.min_entropy}"


def _length(found: Sequence[str], spec: CrawlRequest) -> Fault | None:
    if len(found) < spec.min_words:
        return "too_short", f"{len(found)} words, needs {spec.min_words}"
    length = mean_word_length(found)
    low, high = spec.word_length
    if length and not low <= length <= high:
        return "word_length", f"{length:.1f} characters a word, must be {low} to {high}"
    return None


def _repetition(text: str, found: Sequence[str], spec: CrawlRequest) -> Fault | None:
    lines, ngrams = repeated_lines(text), repeated_ngrams(found)
    if lines > spec.max_repeated_lines:
        return "repetitive", f"{lines:.2f} of the lines, at most {spec.max_repeated_lines}"
    if ngrams > spec.max_repeated_ngrams:
        return "repetitive", f"{ngrams:.2f} in repeated runs, at most {spec.max_repeated_ngrams}"
    return None


def _ads(page: Page, spec: CrawlRequest) -> Fault | None:
    ratio = ad_ratio(page.ads, page.words)
    if ratio < spec.max_ad_ratio:
        return None
    return "ads", f"{ratio:.3f} ads a word, must stay below {spec.max_ad_ratio}"


def _language(text: str, spec: CrawlRequest) -> Fault | None:
    spoken = language(text)
    if spoken in spec.languages:
        return None
    return "language", f"{spoken}, wanted {', '.join(spec.languages)}"
