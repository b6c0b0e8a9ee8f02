"""``python -m lora_factory adapters`` against a running app."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_factory.__main__ import main
from serving_app import ADMIN_KEY, Server

pytestmark = pytest.mark.integration


def test_live_loras_are_listed_fetched_rolled_back_and_retired(
    server: Server,
    make_lora: Callable[[int, float], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("LORA_FACTORY_SERVE_URL", server.url)
    monkeypatch.setenv("LORA_FACTORY_SERVE_TOKEN", ADMIN_KEY)

    def command(*words: str) -> str:
        capsys.readouterr()
        assert main(["adapters", *words]) == 0
        return capsys.readouterr().out

    first, second = (
        server.publish(make_lora(seed, 0.03), name="signs").json()["version"] for seed in (1, 2)
    )
    for version in (first, second):
        server.promote(version, "signs").raise_for_status()
    assert f"signs  {second}  emoji  0.900\n" in command("list")
    command("download", "signs", "--to", str(tmp_path / "x.safetensors"))
    assert (tmp_path / "x.safetensors").read_bytes() == make_lora(2, 0.03).read_bytes()
    command("download", "signs", "--version", first, "--to", str(tmp_path / "y.safetensors"))
    assert (tmp_path / "y.safetensors").read_bytes() == make_lora(1, 0.03).read_bytes()
    assert command("rollback", "signs") == f"signs  {first}\n"
    command("retire", "signs")
    assert "signs" not in command("list")
    for words in (
        ["rollback", "signs"],
        ["retire", "nobody"],
        ["download", "../signs", "--to", str(tmp_path / "z")],
    ):
        assert main(["adapters", *words]) == 1
    assert not (tmp_path / "z").exists()
