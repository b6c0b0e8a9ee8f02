"""What the OpenAPI description shows must be what the app takes and gives."""

from __future__ import annotations

from typing import Any

import pytest

from lora_factory.contracts import serving
from lora_factory.contracts.base import Contract

SHOWN = [
    serving.Failure,
    serving.GenerateRequest,
    serving.GenerateResponse,
    serving.Job,
    serving.FeedbackRequest,
    serving.PromoteRequest,
    serving.AdapterList,
]


def examples(model: type[Contract]) -> list[Any]:
    extra = model.model_config.get("json_schema_extra")
    assert isinstance(extra, dict), f"{model.__name__} shows no example"
    found = extra["examples"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("model", SHOWN)
def test_examples_are_valid(model: type[Contract]) -> None:
    for value in examples(model):
        shown = model.model_validate(value).model_dump(mode="json", exclude_unset=True)
        assert shown == value
