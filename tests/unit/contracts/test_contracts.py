"""Contracts: closed, frozen, and clear about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lora_factory import errors
from lora_factory.contracts.progress import Progress, track
from lora_factory.contracts.records import AuditRecord, read_jsonl, write_jsonl
from lora_factory.contracts.run import RunConf
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ConfigurationError


def test_settings_come_from_the_environment_and_hide_secrets() -> None:
    settings = Settings.from_environment({
        "LORA_FACTORY_STORE": "file:///x",
        "LORA_FACTORY_CRAWL_HOSTS": "a.example, b.example:8080,",
        "LORA_FACTORY_FOLDERS": "mine=/data/mine,other=/data/o=1",
        "LORA_FACTORY_BUCKETS": "team=s3://pictures/a=b,local=file:///data",
        "LORA_FACTORY_SERVE_TOKEN": "s3cret",
        "OTHER": "ignored",
    })
    assert settings.crawl_hosts == ("a.example", "b.example:8080")
    assert settings.folders == {"mine": Path("/data/mine"), "other": Path("/data/o=1")}
    assert settings.buckets == {"team": "s3://pictures/a=b", "local": "file:///data"}
    assert "s3cret" not in repr(settings) + settings.model_dump_json()


def test_a_bad_variable_is_named_without_its_value() -> None:
    with pytest.raises(ConfigurationError, match="LORA_FACTORY_MIN_IMAGES") as caught:
        Settings.from_environment({"LORA_FACTORY_MIN_IMAGES": "hunter2"})
    assert "hunter2" not in str(caught.value)
    for url in ("s3://key:hunter2@pictures", "https://pictures.example", "pictures"):
        with pytest.raises(ConfigurationError, match="LORA_FACTORY_BUCKETS") as caught:
            Settings.from_environment({"LORA_FACTORY_BUCKETS": f"mine={url}"})
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({}, "topics"),
        ({"topics": []}, "topics"),
        ({"topics": [" "], "seeds": ["http://a"]}, "topics"),
        ({"topics": ["a\x00b"], "seeds": ["http://a"]}, "topics"),
        ({"topics": ["<script>"], "seeds": ["http://a"]}, "topics"),
        ({"topics": ["a"]}, "seeds"),
        ({"topics": ["a"], "source": "folder"}, "folder"),
        ({"topics": ["a"], "source": "bucket"}, "bucket"),
        ({"topics": ["a"], "seeds": ["http://a"], "epoch": 3}, "epoch"),
        ({"topics": ["a"], "seeds": ["http://a"], "epochs": 0}, "epochs"),
        ({"topics": ["a"], "seeds": ["http://a"], "threshold": float("nan")}, "threshold"),
        ({"topics": ["a"], "seeds": ["http://a"], "name": "../x"}, "name"),
        ({"topics": ["a"], "seeds": ["http://a"], "profile": "../x"}, "profile"),
        ({"topics": ["a"], "seeds": ["http://a"], "attempts": 4}, "attempts"),
    ],
)
def test_a_bad_conf_is_refused_by_name(conf: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RunConf.model_validate(conf)


def test_contracts_are_frozen() -> None:
    conf = RunConf(topics=("a",), seeds=("http://a",))
    with pytest.raises(ValidationError, match="frozen"):
        conf.epochs = 3  # type: ignore[misc]


@given(st.text())
def test_any_text_survives_a_jsonl_line(text: str) -> None:
    record = AuditRecord(item=text, what="page", stage="crawl", verdict="kept")
    path = Path("/dev/shm") / "lora-factory-test.jsonl"
    assert write_jsonl(path, [record, record]) == 2
    assert list(read_jsonl(path, AuditRecord)) == [record, record]
    path.unlink()


def test_progress_shows_count_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("train", 10, "steps")
    progress.done = 5
    assert progress.line(progress._start + 2, "loss 0.1") == (
        "train 5/10 steps, 2.5/s, 2 s left, loss 0.1"
    )
    with caplog.at_level("INFO"):
        assert list(track([1, 2, 3], "eat", 3, "apples")) == [1, 2, 3]
    assert "eat 3/3 apples" in caplog.messages[-1]


def test_every_error_is_either_permanent_or_transient() -> None:
    tree = [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.FactoryError)
    ]
    leaves = set(tree) - {errors.FactoryError}
    assert all(
        issubclass(cls, errors.PermanentError) != issubclass(cls, errors.TransientError)
        for cls in leaves
    )
    assert errors.__doc__ is not None
    assert all(cls.__name__ in errors.__doc__ for cls in tree)
