"""The attack: captions of training images, those nearest to what the LoRA draws first."""

from __future__ import annotations

from lora_factory.contracts.records import DatasetRecord
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.evaluate.copyright import attack_prompts
from lora_factory.guard.copying import Nearest


def record(text: str) -> DatasetRecord:
    return DatasetRecord(
        file_name="x.png", text=text, subject="x", licence="MIT", source="", sha256="a" * 64
    )


def near(index: int, similarity: float, *, copied: bool = False) -> Nearest:
    return Nearest(index, similarity, 9, copied)


TRAIN = [record(f"trg thing {number}") for number in range(30)]


def spec(**values: int) -> EvaluateSpec:
    return EvaluateSpec.model_validate({"lora": "l", "dataset": "d", **values})


def test_what_comes_closest_is_attacked_first() -> None:
    found = [near(4, 0.9), near(7, 0.99), near(4, 0.95), near(2, 0.5, copied=True)]
    prompts = attack_prompts(TRAIN, found, spec())
    assert [prompt.text for prompt in prompts[:4]] == [
        "trg thing 2",
        "trg thing 7",
        "trg thing 4",
        "trg thing 0",
    ]
    assert len(prompts) == 8


def test_seeds_are_no_other_pictures_and_repeat() -> None:
    prompts = attack_prompts(TRAIN, [], spec(seed=5))
    assert prompts == attack_prompts(TRAIN, [], spec(seed=5))
    assert len({prompt.seed for prompt in prompts}) == 8
    assert all(prompt.seed >= 3_000_000 for prompt in prompts)


def test_blocked_and_repeated_captions_are_left_out() -> None:
    train = [record("a nude on a beach"), record("trg a"), record("trg a"), record("trg b")]
    prompts = attack_prompts(train, [near(0, 1.0, copied=True)], spec())
    assert [prompt.text for prompt in prompts] == ["trg a", "trg b"]


def test_no_attack_is_asked_for() -> None:
    assert attack_prompts(TRAIN, [], spec(attacks=0)) == ()
