"""Evaluation prompts: deterministic, varied, harmless."""

import pytest

from lora_factory.contracts.records import DatasetInfo, DatasetRecord, Labels
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.errors import DataError
from lora_factory.evaluate.prompts import (
    EvalPrompt,
    PromptSplits,
    generate_eval_prompts,
    split_prompts,
    with_trigger,
    words_of,
)

INFO = DatasetInfo(
    trigger="ohcx",
    style="outline",
    theme="animals",
    keywords=("icon", "sign"),
    domain="art",
    train=20,
    validation=5,
    resolution=64,
)


def record(subject: str, **labels: object) -> DatasetRecord:
    return DatasetRecord(
        file_name=f"{subject}.png",
        text=f"ohcx {subject}, outline icon",
        subject=subject,
        labels=Labels.model_validate(labels),
        licence="MIT",
        source="https://example.org",
        sha256=subject,
    )


RECORDS = [record(word) for word in ("cat", "dog", "cow", "pig", "hen")]


def test_same_seed_same_prompts() -> None:
    first, _ = generate_eval_prompts(INFO, RECORDS, 24, 7)
    again, _ = generate_eval_prompts(INFO, RECORDS, 24, 7)
    other, _ = generate_eval_prompts(INFO, RECORDS, 24, 8)
    assert first == again
    assert [p.text for p in first] != [p.text for p in other]


def test_every_record_is_used_and_named_and_seeds_differ() -> None:
    prompts, _ = generate_eval_prompts(INFO, RECORDS, 10, 0)
    assert {p.anchor for p in prompts} == set(range(5))
    assert all(RECORDS[p.anchor].subject in p.text and "ohcx" in p.text for p in prompts)
    assert len({p.seed for p in prompts}) == 10
    assert len({p.text for p in prompts}) == 10


def test_captions_and_all_three_templates_appear() -> None:
    texts = [p.text for p in generate_eval_prompts(INFO, RECORDS, 24, 0)[0]]
    assert any(text.endswith(", outline icon") for text in texts)
    assert any("in the style of outline" in text for text in texts)
    assert any(text.startswith("High quality animals featuring ohcx ") for text in texts)
    assert any(text.endswith((" icon", " sign")) and "," not in text for text in texts)


def test_an_images_own_labels_come_first() -> None:
    own = [record("cat", theme=("pets",), style="ink", keywords=("paw",))] * 4
    texts = " ".join(p.text for p in generate_eval_prompts(INFO, own, 24, 0)[0])
    assert "style of ink" in texts
    assert "pets" in texts
    assert "paw" in texts
    assert "animals" not in texts


def test_blocked_captions_are_left_out_and_counted() -> None:
    prompts, blocked = generate_eval_prompts(INFO, [*RECORDS, record("nude")], 12, 0)
    assert blocked == 1
    assert 5 not in {p.anchor for p in prompts}


def test_nothing_harmless_left_is_an_error() -> None:
    with pytest.raises(DataError, match="blocks the captions of all 2"):
        generate_eval_prompts(INFO, [record("nude"), record("porn")], 12, 0)


def test_a_record_without_subject_still_makes_a_prompt() -> None:
    texts = [p.text for p in generate_eval_prompts(INFO, [record("")], 6, 0)[0]]
    assert all(text.strip() for text in texts)


def splits(records: list[DatasetRecord], **wanted: int) -> PromptSplits:
    spec = EvaluateSpec(lora="l", dataset="d", **wanted)
    return split_prompts(INFO, records, words_of(INFO, records), spec)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_splits_share_neither_text_nor_seed(seeds: int) -> None:
    found = splits(RECORDS, prompts=12, choosing=6, drift=8, seeds=seeds)
    assert len(found.report) == 12 * seeds
    assert (len(found.choose), len(found.drift), found.lacking) == (6, 8, 0)
    parts = (found.report, found.choose, found.drift)
    texts = [{prompt.text for prompt in part} for part in parts]
    used = [prompt.seed for part in parts for prompt in part]
    assert [len(part) for part in texts] == [12, 6, 8]
    assert not (texts[0] & texts[1])
    assert not (texts[0] & texts[2])
    assert not (texts[1] & texts[2])
    assert len(set(used)) == len(used)


def test_seeds_of_a_prompt_follow_each_other() -> None:
    report = splits(RECORDS, prompts=4, choosing=0, seeds=3).report
    assert [prompt.text for prompt in report[:3]] == [report[0].text] * 3
    assert report[3].text != report[0].text


def test_drift_prompts_name_neither_trigger_nor_style_nor_what_the_data_shows() -> None:
    shown = [*RECORDS, record("two apples"), record("Fox")]
    texts = [p.text for p in splits(shown, drift=100).drift]
    assert len(texts) > 60
    assert {"an elephant", "a banana"} <= set(texts)
    words = {word for text in texts for word in text.split()}
    assert not words & {"apple", "fox", "ohcx", "outline", "animals"}


def test_too_few_captions_for_what_is_asked_are_shared_out_and_counted() -> None:
    found = splits(RECORDS[:2], prompts=40, choosing=10)
    made = len(found.report) + len(found.choose)
    assert made + found.lacking == 50
    assert len(found.choose) == made // 5


def test_captions_that_are_all_the_same_make_no_prompt_twice() -> None:
    same = [record("cat")] * 5
    texts = [p.text for p in splits(same, prompts=24, choosing=0).report]
    assert 4 <= len(texts) == len(set(texts))


def test_too_few_different_prompts_are_an_error() -> None:
    """The guard leaves three: templates with the theme, style and keywords are blocked."""
    info = INFO.model_copy(update={"theme": "nude", "style": "nude", "keywords": ("nude",)})
    spec = EvaluateSpec(lora="l", dataset="d")
    with pytest.raises(DataError, match="only 3 different prompts, evaluation needs 4"):
        split_prompts(info, [record("cat")] * 5, frozenset(), spec)


def test_another_trigger_takes_the_place_of_the_whole_word_only() -> None:
    prompts = [EvalPrompt("ohcx cat, ohcxy in OHCX (ohcx)", 5, 2)]
    assert with_trigger(prompts, "ohcx", r"n\1w") == [
        EvalPrompt(r"n\1w cat, ohcxy in OHCX (n\1w)", 5, 2)
    ]
