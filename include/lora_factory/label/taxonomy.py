"""The labels there are: themes in a tree, styles, schools (article, 2.2).

The shipped file is broad and three deep; who trains on one field only (shoes, X-rays) names
their own by ``LORA_FACTORY_TAXONOMY``.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lora_factory.contracts.base import Contract, sha256_json
from lora_factory.errors import ConfigurationError

if TYPE_CHECKING:
    from lora_factory.contracts.settings import Settings

FILE = Path(__file__).with_name("taxonomy.toml")
UNKNOWN = "unknown"
Tone = Literal["bilevel", "grey", "colour"]


class Theme(Contract):
    """What pictures show."""

    parent: str | None = None
    examples: tuple[str, ...] = Field(min_length=1)


class Manner(Contract):
    """A style or a school: how pictures are made."""

    words: tuple[str, ...] = Field(min_length=1, description="How people write it")
    tone: Tone | None = Field(None, description="What its pixels must look like; None: any")


class Taxonomy(Contract):
    """Name → label. ``unknown`` is no label: it says that none fits."""

    themes: dict[str, Theme] = Field(min_length=2)
    styles: dict[str, Manner] = Field(min_length=2)
    schools: dict[str, Manner] = Field(min_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if UNKNOWN in {*self.themes, *self.styles, *self.schools}:
            msg = "'unknown' can't be the name of a label"
            raise ValueError(msg)
        for name in self.themes:
            self.path(name)
        return self

    def path(self, theme: str) -> tuple[str, ...]:
        """The theme, its parent, and so on up; at most three.

        Raises:
            ValueError: a parent doesn't exist, or the path is longer (a circle, too).
        """
        found = [theme]
        while (parent := self.themes[found[-1]].parent) is not None:
            if parent not in self.themes:
                msg = f"theme {found[-1]!r} has a parent {parent!r} that does not exist"
                raise ValueError(msg)
            found.append(parent)
            if len(found) > 3:
                msg = f"theme {theme!r} has more than two ancestors"
                raise ValueError(msg)
        return tuple(found)

    def theme_synonyms(self) -> list[tuple[str, str]]:
        """A theme's name and one of its examples, for every theme."""
        return [(name, theme.examples[-1]) for name, theme in self.themes.items()]

    def style_synonyms(self) -> list[tuple[str, str]]:
        """A style's name and another that shares no word with it, where there is one."""
        found = []
        for name, style in self.styles.items():
            others = [word for word in style.words if not {*word.split()} & {*name.split()}]
            found += [(name, other) for other in others[:1]]
        return found

    def root(self, theme: str) -> str:
        """The top of a theme's path."""
        return self.path(theme)[-1]


def taxonomy_conditions(settings: Settings) -> dict[str, str]:
    """What the deployment's own taxonomy adds to a dataset's key; nothing without one."""
    if settings.taxonomy is None:
        return {}
    own = load_taxonomy(settings.taxonomy)
    return {"taxonomy": f"sha256:{sha256_json(own.model_dump(mode='json'))[:16]}"}


def load_taxonomy(file: Path | None = None) -> Taxonomy:
    """Read a taxonomy; None: the shipped one.

    Raises:
        ConfigurationError: the file can't be used; names the field.
    """
    return _load(FILE if file is None else file)


@lru_cache(maxsize=4)
def _load(file: Path) -> Taxonomy:
    try:
        return Taxonomy.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as err:
        msg = f"taxonomy {file} can't be read: {err}"
        raise ConfigurationError(msg) from err
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        msg = f"taxonomy {file}: {where}: {first['msg']}"
        raise ConfigurationError(msg) from err
