"""The form people fill in against the contract it feeds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from lora_factory.contracts.run import RunConf
from lora_factory_airflow.run_plan import parse_conf

REQUIRED = {"topics": ["cats"], "seeds": ["http://127.0.0.1/"]}


@pytest.fixture(scope="module")
def params():
    from lora_factory_airflow.params import run_params

    return run_params()


def test_one_param_a_field_with_words(params):
    assert set(params) == set(RunConf.model_fields)
    for name, param in params.items():
        assert param.schema["title"], name
        assert param.schema["section"], name
        assert param.description.endswith("."), name


def test_defaults_are_the_contracts(params):
    assert not params["topics"].has_value
    values = {name: param.value for name, param in params.items() if name != "topics"}
    defaults = RunConf.model_validate(REQUIRED).model_dump(mode="json", exclude={"topics"})
    assert values == defaults | dict.fromkeys(("seeds", "folder", "bucket"))
    assert parse_conf(REQUIRED, values).model_dump(mode="json") == defaults | {
        "topics": REQUIRED["topics"]
    }


def test_only_topics_must_be_filled_in(params):
    """The UI blocks its button while a field that takes no null is empty."""
    for name, param in params.items():
        empty = not param.has_value or param.value in (None, "", [])
        assert not empty or name == "topics" or "null" in param.schema["type"], name


def test_types_are_plain(params):
    """The UI draws a field from ``type``; it understands no anyOf, const or $ref."""
    for name, param in params.items():
        assert "type" in param.schema, name
        assert not {"anyOf", "const", "$ref"} & set(param.schema), name


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2_000_000), st.floats(-1, 2), st.text(max_size=70)
)
VALUES = st.one_of(
    JSON,
    st.lists(JSON, max_size=3),
    st.sampled_from(["web", "folder", "art", "local", "train", "2026-01-02", "a-b_c"]),
)


@given(name=st.sampled_from(sorted(RunConf.model_fields)), value=VALUES)
def test_what_the_form_accepts_the_plan_accepts(params, name, value):
    """Nothing that the API lets through may then fail for its shape alone."""
    schema = Draft202012Validator(params[name].schema, format_checker=FormatChecker())
    if not schema.is_valid(value):
        return
    conf = {**REQUIRED, "folder": "x", name: value}
    if name == "seeds" and not value:
        return
    parse_conf(conf, {})
