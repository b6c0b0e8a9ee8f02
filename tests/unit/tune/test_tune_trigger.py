"""Tuning asks the chosen base about the trigger word, as labelling asked all of its profile's."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import TuneSpec
from lora_factory.errors import SpecError
from lora_factory.models.profiles import load_profile
from lora_factory.tune.stage import check_trigger, run
from training_data import TRIGGER, context, make_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "dataset", train=4, validation=1).path


def rename(folder: Path, trigger: str) -> None:
    file = folder / "dataset.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace(f'"{TRIGGER}"', f'"{trigger}"'))
    assert f'"{trigger}"' in file.read_text()


def test_a_made_up_word_passes(folder: Path) -> None:
    check_trigger(folder, load_profile("embedded", Settings()).base("emoji", "art"))


def test_a_word_that_the_base_knows_is_refused(folder: Path) -> None:
    rename(folder, "dog")
    entry = load_profile("embedded", Settings()).base("emoji", "art")
    message = r"trigger 'dog' of the dataset is a single token of base 'emoji'.*label again"
    with pytest.raises(SpecError, match=message):
        check_trigger(folder, entry)


def test_the_stage_refuses_it_before_it_measures_a_step(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset", train=4, validation=1)
    rename(dataset.path, "dog")
    with pytest.raises(SpecError, match="single token of base"):
        run(TuneSpec(dataset=dataset.uri), context(tmp_path / "work", dataset=dataset))
