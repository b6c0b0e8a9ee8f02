"""Which of two copies stays."""

from __future__ import annotations

import pytest

from lora_factory.contracts.records import RawRecord
from lora_factory.sanitize.captions import Caption
from lora_factory.sanitize.items import Item
from lora_factory.sanitize.scored import _worth, freedom


def worth(source: str = "alt", side: int = 64, licence: str = "MIT", **fields: object) -> object:
    record = RawRecord(sha256="a", file_name="a", url="u", licence=licence, width=side, height=side)
    caption = Caption(text="a cat", source=source)  # type: ignore[arg-type]
    return _worth(Item(record=record, **fields), caption)


def test_order() -> None:
    """Each may have anything that is less important."""
    ladder = [
        worth(),
        worth(sharpness=0.9),
        worth(lossless=True),
        worth(licence="CC0-1.0"),
        worth(side=65, licence="unknown"),
        worth("caption", side=65),
        worth("title", replayed=True, licence="unknown"),
    ]
    assert ladder == sorted(ladder)  # type: ignore[type-var]
    assert worth("none", side=900, licence="CC0-1.0") < worth(licence="unknown")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("licence", "rank"),
    [
        *[("own", 4), ("CC0-1.0", 4), ("PDM-1.0", 4), ("MIT", 3), ("CC-BY-4.0", 3)],
        *[("CC-BY-SA-4.0", 2), ("CC-BY-NC-4.0", 1), ("CC-BY-ND-4.0", 1), ("unknown", 0)],
    ],
)
def test_freedom(licence: str, rank: int) -> None:
    assert freedom(licence) == rank
