"""Making the embedded models anew: its data rules, and that a slice goes on where one ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_factory.demo.pretrain import icons as icons_module
from lora_factory.demo.pretrain.augment import recoloured, shifted, to_unit
from lora_factory.demo.pretrain.icons import LEFT_OUT, Icons, is_held_out, split_name
from lora_factory.demo.pretrain.loop import OutOfTime, Recipe, Slice, train_part
from lora_factory.demo.pretrain.parts import make_tokenizer


@pytest.mark.parametrize(
    "name",
    [
        "artist-dark-skin-tone",
        "man-vampire-dark",
        "flag-martinique",
        "keycap-6",
        "letter-k",
        "down-left-arrow",
        "eight-oclock-clock",
        "woman-and-man-holding-hands",
        "clock2oclock",
        "7",
    ],
)
def test_what_isnt_learned(name: str) -> None:
    assert LEFT_OUT.search(name)


@pytest.mark.parametrize("name", ["red-apple", "crocodile", "ninja", "snowman", "darkness-lamp"])
def test_what_is_learned(name: str) -> None:
    assert LEFT_OUT.search(name) is None


def test_run_together_names_are_split_by_others_words() -> None:
    words = frozenset({"black", "down", "pointing", "back", "hand", "backhand"})
    assert split_name("blackdownpointingbackhand", words) == "black down pointing backhand"
    assert split_name("blackdownxhand", words) == ""
    assert split_name("", words) == ""


def test_a_name_is_held_out_in_every_set_or_in_none() -> None:
    names = tuple(f"thing {number}" for number in range(400)) * 2
    found = Icons(torch.zeros(800, 3, 1, 1), names, ("noto",) * 400 + ("fx",) * 400)
    train, held = found.split()
    assert not set(train.names) & set(held.names)
    assert 4 < len(held) < 80
    assert all(map(is_held_out, held.names))
    assert set(found.of("fx").styles) == {"fx"}


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(icons_module.DataError, match="noto"):
        icons_module.load_icons(tmp_path, tmp_path / "cache.safetensors")


def test_pictures_stay_in_range_and_draws_repeat() -> None:
    pixels = torch.randint(0, 256, (12, 3, 64, 64), dtype=torch.uint8)

    def made() -> torch.Tensor:
        draw = torch.Generator().manual_seed(3)
        return recoloured(shifted(to_unit(pixels), draw), draw)

    assert made().shape == (12, 3, 64, 64)
    assert float(made().abs().max()) <= 1.0
    assert torch.equal(made(), made())


def test_words_that_occur_twice_are_tokens(tmp_path: Path) -> None:
    names = ("red apple", "green apple", "red car")
    tokenizer = make_tokenizer(names, ("noto",) * 3, tmp_path)
    assert tokenizer.tokenize("a red apple icon") == ["a</w>", "red</w>", "apple</w>", "icon</w>"]
    ids = tokenizer("apple").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.tokenize("zebra") != [tokenizer.unk_token]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 32


def train(folder: Path, steps_a_slice: int) -> tuple[torch.nn.Module, int]:
    """A tiny model, by as many slices as it takes; and how many these were."""
    recipe = Recipe("tiny", rate=1e-2, batch=4, images=120)
    for number in range(1, 100):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        steps = iter(range(steps_a_slice - 1))

        def loss_of(draw: torch.Generator, count: int, model: Any = model) -> torch.Tensor:
            rows = torch.randn(count, 3, generator=draw)
            error: torch.Tensor = model(rows) - rows.sum(1, keepdim=True)
            return error.square().mean()

        def is_over(steps: Iterator[int] = steps) -> bool:
            return next(steps, None) is None

        try:
            return train_part(recipe, model, loss_of, Slice(folder, is_over, "cpu")), number
        except OutOfTime:
            continue
    raise AssertionError


def test_slices_make_what_one_run_makes(tmp_path: Path) -> None:
    whole, one = train(tmp_path / "whole", steps_a_slice=10**6)
    parts, several = train(tmp_path / "parts", steps_a_slice=7)
    assert (one, several) == (1, 5)
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(left, right)
