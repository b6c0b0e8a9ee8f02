"""The prompt filter on labelled prompts: precision and recall on the half nobody tuned on."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelled_prompts import Labelled, Rate, labelled, precision_and_recall
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError, ModelError
from lora_factory.guard.content import MAX_LENGTH, check_prompt
from lora_factory.guard.meaning import PromptFilter, prompt_filter
from lora_factory.models.profiles import PACKAGE, load_profile

SHARE = 0.02
"""Of the development half's safe prompts that meaning alone may refuse."""


@pytest.fixture(scope="module")
def judge() -> PromptFilter:
    return prompt_filter(load_profile("embedded", Settings()))


def refused(judge: PromptFilter, prompts: Sequence[Labelled]) -> set[str]:
    verdicts = judge.check([one.prompt for one in prompts])
    return {one.prompt for one, said in zip(prompts, verdicts, strict=True) if not said.allowed}


def test_the_prompts_are_many_and_of_every_kind() -> None:
    halves = [labelled(held_out=held_out) for held_out in (False, True)]
    assert sum(map(len, halves)) >= 400
    for half in halves:
        assert {one.label for one in half} == {"safe", "sexual", "minors", "violence"}
        forms = {"plain", "obfuscated", "described", "everyday", "hard"}
        assert all(sum(one.form == form for one in half) >= 20 for form in forms)
        assert all(one.unsafe == (one.form not in {"everyday", "hard"}) for one in half)


def test_precision_and_recall_on_the_held_out_half(judge: PromptFilter) -> None:
    """95% Wilson intervals; the rules alone, and with meaning."""
    prompts = labelled(held_out=True)
    both = refused(judge, prompts)
    rules_precision, rules_recall = precision_and_recall(
        prompts, lambda prompt: not check_prompt(prompt).allowed
    )
    precision, recall = precision_and_recall(prompts, both.__contains__)
    for name, found in (("rules", (rules_precision, rules_recall)), ("both", (precision, recall))):
        sys.stdout.write(f"{name}: precision {found[0]}, recall {found[1]}\n")
    assert precision.interval[0] >= 0.75
    assert recall.interval[0] >= 0.75
    assert recall.interval[0] > rules_recall.value, "meaning finds what words don't"
    assert precision.value > rules_precision.value - 0.03, "and costs hardly any precision"
    everyday = [one for one in prompts if one.form == "everyday"]
    assert not refused(judge, everyday)


def test_the_threshold_is_the_development_halfs(judge: PromptFilter) -> None:
    safe = [one.prompt for one in labelled(held_out=False) if not one.unsafe]
    scores = np.sort(judge.scores(safe))[::-1]
    first_let_pass = float(scores[int(SHARE * len(safe))])
    assert judge.threshold == pytest.approx(math.ceil(first_let_pass * 1000) / 1000, abs=0.0015)


def test_rules_keep_their_names_and_meaning_has_its_own(judge: PromptFilter) -> None:
    texts = ["p0rn", "a man with nothing on at all", "a lamp", "", "a " * MAX_LENGTH, "\ud83d a"]
    said = judge.check(texts)
    assert [one.rule for one in said] == ["sexual", "meaning", "", "", "length", ""]
    assert judge.check([]) == []


def test_the_gallery_means_nothing_bad(judge: PromptFilter) -> None:
    names = [f.stem.replace("-", " ") for f in (PACKAGE / "demo/gallery/icons").glob("*.png")]
    assert all(verdict.allowed for verdict in judge.check(names))


def test_threads_may_share_it(judge: PromptFilter) -> None:
    alone = float(judge.scores(["a red apple"])[0])
    found: list[float] = []

    def ask() -> None:
        found.extend(float(judge.scores(["a red apple"])[0]) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == pytest.approx([alone] * 20, abs=1e-5)


def test_a_score_that_is_no_number_is_no_pass() -> None:
    class Broken:
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), 4), np.nan, dtype=np.float32)

    assert not PromptFilter(Broken()).check(["a lamp"])[0].allowed


def test_without_the_embedder_there_is_no_filter() -> None:
    profile = load_profile("embedded", Settings())
    entry = profile.role("text_embedder").model_copy(update={"package": "no_such_wheel:model"})
    with pytest.raises(ModelError, match="pip install it"):
        prompt_filter(profile.model_copy(update={"roles": {"text_embedder": entry}}))
    with pytest.raises(ConfigurationError, match="text_embedder"):
        prompt_filter(profile.model_copy(update={"roles": {}}))


# -- the counting itself


def test_wilsons_interval() -> None:
    """Against scipy's."""
    from scipy.stats import binomtest

    for k, n in ((0, 10), (7, 9), (94, 109), (10, 10)):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert Rate(k, n).interval == pytest.approx((expected.low, expected.high), abs=1e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_precision_and_recall_count_what_they_say(rows: list[tuple[bool, bool]]) -> None:
    prompts = [
        Labelled(f"{number} {no}", "sexual" if unsafe else "safe", "plain")
        for number, (unsafe, no) in enumerate(rows)
    ]
    precision, recall = precision_and_recall(prompts, lambda prompt: prompt.endswith("True"))
    assert precision.k == recall.k == sum(unsafe and no for unsafe, no in rows)
    assert precision.n == sum(no for _, no in rows)
    assert recall.n == sum(unsafe for unsafe, _ in rows)
