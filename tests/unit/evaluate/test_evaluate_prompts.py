"""Evaluation prompts: deterministic, varied, harmless."""

import pytest

from lora_factory.contracts.records import DatasetInfo, DatasetRecord, Labels
from lora_factory.errors import DataError
from lora_factory.evaluate.prompts import generate_eval_prompts

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
