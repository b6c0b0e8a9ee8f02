"""The shipped taxonomy, and what a broken one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError
from lora_factory.guard.content import check_prompt
from lora_factory.imaging.agreement import MIN_PAIRS
from lora_factory.label.taxonomy import load_taxonomy, taxonomy_conditions

GOOD = """
[themes.food]
examples = ["food"]
[themes.fruit]
parent = "food"
examples = ["apple"]
[styles.photo]
words = ["photo"]
[styles.sketch]
words = ["sketch"]
[schools.cubism]
words = ["cubism"]
[schools.realism]
words = ["realism"]
"""


def test_every_parent_exists_and_paths_fit_a_record() -> None:
    taxonomy = load_taxonomy()
    assert len(taxonomy.themes) > 200
    assert {len(taxonomy.path(name)) for name in taxonomy.themes} == {1, 2, 3}
    for name in taxonomy.themes:
        path = taxonomy.path(name)
        assert path[0] == name
        assert 1 <= len(path) <= 3
        assert taxonomy.themes[taxonomy.root(name)].parent is None


def test_no_example_belongs_to_two_themes() -> None:
    words = [word for theme in load_taxonomy().themes.values() for word in theme.examples]
    assert len(words) == len(set(words))


def test_it_fits_an_endpoints_limits_on_schemas() -> None:
    """OpenAI's: 500 values of enums in all; one of more than 250 has at most 7,500 letters."""
    taxonomy = load_taxonomy()
    groups = (taxonomy.themes, taxonomy.styles, taxonomy.schools)
    assert sum(len(group) + 1 for group in groups) <= 500
    assert all(sum(map(len, group)) <= 7500 for group in groups)


def test_a_deployments_own_file_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    assert set(load_taxonomy(file).themes) == {"food", "fruit"}
    assert taxonomy_conditions(Settings()) == {}
    first = taxonomy_conditions(Settings(taxonomy=file))
    other = tmp_path / "other.toml"
    other.write_text(GOOD.replace("apple", "pear"))
    assert first != taxonomy_conditions(Settings(taxonomy=other))
    with pytest.raises(ConfigurationError, match="can't be read"):
        taxonomy_conditions(Settings(taxonomy=tmp_path / "none.toml"))


def test_labels_are_lower_case_and_pass_the_prompt_filter() -> None:
    taxonomy = load_taxonomy()
    for name in (*taxonomy.themes, *taxonomy.styles, *taxonomy.schools):
        assert name == name.lower()
        assert check_prompt(name).allowed
    for manner in (*taxonomy.styles.values(), *taxonomy.schools.values()):
        assert all(word == word.lower() for word in manner.words)


def test_synonyms_share_no_word_and_are_enough_for_a_test() -> None:
    taxonomy = load_taxonomy()
    assert len(taxonomy.style_synonyms()) >= MIN_PAIRS
    assert len(taxonomy.theme_synonyms()) == len(taxonomy.themes)
    assert not any({*name.split()} & {*other.split()} for name, other in taxonomy.style_synonyms())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('parent = "food"', 'parent = "meal"'), "'meal' that does not exist"),
        (("[themes.food]", '[themes.food]\nparent = "fruit"'), "more than two ancestors"),
        (("[styles.photo]", "[styles.unknown]"), "'unknown' can't be"),
        (('words = ["photo"]', "words = []"), "styles.photo.words"),
        (('words = ["photo"]', 'words = ["photo"]\ncolour = 1'), "styles.photo.colour"),
        (("[styles.photo]", "[styles.photo"), "can't be read"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    file = tmp_path / "taxonomy.toml"
    file.write_text(GOOD)
    load_taxonomy(file)
    broken = tmp_path / "broken.toml"
    broken.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigurationError, match=says):
        load_taxonomy(broken)
