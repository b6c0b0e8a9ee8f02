"""Comparing two LoRAs: the verdict's rules, the page, and what a URI may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate_reports import HOSTILE, row
from lxml import html as parser

from lora_factory.commands.compare import pick
from lora_factory.contracts.evaluation import HardGate
from lora_factory.contracts.manifest import Manifest
from lora_factory.errors import ArtifactError, SpecError
from lora_factory.evaluate.compare import (
    ComparisonReport,
    Contestant,
    Difference,
    difference,
    judge,
    render_comparison,
)
from lora_factory.evaluate.statistics import resample
from lora_factory.store.artifacts import ArtifactStore

OPEN = (HardGate(name="effect", passed=True), HardGate(name="no_copies", passed=True))
CLOSED = (HardGate(name="effect", passed=True), HardGate(name="no_copies", passed=False))


def overall(low: float, high: float) -> Difference:
    middle = (low + high) / 2
    better = "A" if low > 0 else "B" if high < 0 else "unclear"
    return Difference(
        metric="overall", a=0.5 + middle / 2, b=0.5 - middle / 2, difference=middle, low=low,
        high=high, n=24, better=better,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gap", "a", "b", "winner", "words"),
    [
        (overall(0.1, 0.3), OPEN, OPEN, "A", "A is better: A − B is +0.200 overall"),
        (overall(-0.3, -0.1), OPEN, OPEN, "B", "B is better: A − B is -0.200 overall"),
        (overall(-0.1, 0.3), OPEN, OPEN, "unclear", "Can't tell which is better"),
        # A gate outweighs any score.
        (overall(0.1, 0.3), CLOSED, OPEN, "B", "B is better: A has a closed gate (No copies"),
        (overall(-0.3, -0.1), OPEN, CLOSED, "A", "A is better: B has a closed gate"),
        (overall(0.1, 0.3), CLOSED, CLOSED, "unclear", "Neither may be used"),
    ],
)
def test_who_is_better(
    gap: Difference,
    a: tuple[HardGate, ...],
    b: tuple[HardGate, ...],
    winner: str,
    words: str,
) -> None:
    found, said = judge(gap, a, b)
    assert found == winner
    assert said.startswith(words)


def test_pairing_finds_a_difference_that_noise_between_prompts_would_hide() -> None:
    """Prompts differ by 0.2, the LoRAs by 0.03 on each: unpaired, 24 prompts say nothing."""
    dice = np.random.default_rng(0)
    hard = dice.normal(0.6, 0.2, 24)
    a, b = hard + 0.03 + dice.normal(0, 0.02, 24), hard + dice.normal(0, 0.02, 24)
    weights = np.concatenate([np.ones((1, 24)), resample(24, 1, dice)])
    means = [weights @ one / weights.sum(axis=1) for one in (a, b)]
    found = difference("overall", *(np.clip(one, 0, 1) for one in means), n=24)
    assert found.better == "A"
    assert found.low is not None
    assert 0 < found.low < 0.03 < (found.high or 0)
    spread = float(np.std(means[0] - dice.permutation(means[1])))
    assert spread > 5 * float(np.std(means[0] - means[1]))


def test_the_same_lora_twice_is_no_difference() -> None:
    same = np.linspace(0.4, 0.6, 100)
    found = difference("fidelity", same, same, n=24)
    assert (found.difference, found.low, found.high, found.better) == (0.0, 0.0, 0.0, "unclear")


def comparison(**changes: object) -> ComparisonReport:
    side = Contestant(
        lora="file:///store/lora/one/manifest.json",
        checkpoint="lora.safetensors",
        sha256="0" * 64,
        trigger="ohcx",
        rank=8,
        steps=45,
        gates=OPEN,
    )
    unread = Difference(
        metric="alignment", a=None, b=None, difference=None, low=None, high=None, n=24,
        better="unclear", note="abstains",
    )  # fmt: skip
    fields: dict[str, object] = {
        "base": "emoji",
        "scorer": "clip@1",
        "dataset": "file:///store/dataset/one/manifest.json",
        "a": side,
        "b": side.model_copy(update={"gates": CLOSED}),
        "differences": (unread, overall(0.1, 0.3)),
        "winner": "A",
        "words": "A is better: A − B is +0.200 overall",
        "prompts": ("red apple",),
        "seeds": 1,
        "steps": 20,
        "guidance": 4.0,
        "calibrated": False,
    }
    return ComparisonReport.model_validate({**fields, **changes})


def test_the_page_says_who_is_better_and_shows_all_three() -> None:
    tree = parser.document_fromstring(render_comparison(comparison(), [row(), row("chair")]))
    words = " ".join(tree.text_content().split())
    for part in ("A is better", "+0.20", "+0.10 to +0.30", "abstains", "not calibrated on people"):
        assert part in words
    assert tree.xpath("//figure[1]//img/@alt") == [
        "A: red apple", "B: red apple", "base: red apple",
    ]  # fmt: skip
    assert tree.xpath("count(//span[@class='closed'])") == 1


def test_the_page_can_not_be_made_to_run_a_script() -> None:
    hostile = comparison(words=HOSTILE, base=HOSTILE, scorer=HOSTILE, prompts=(HOSTILE,))
    tree = parser.document_fromstring(render_comparison(hostile, [row(HOSTILE)]))
    assert not tree.xpath("//script | //a | //iframe | //object | //link | //form | //base")
    assert not [name for element in tree.iter() for name in element.attrib if name[:2] == "on"]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store", tmp_path / "cache")


def commit(store: ArtifactStore, tmp_path: Path, kind: str, files: list[str]) -> str:
    folder = tmp_path / kind
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    draft = Manifest.model_validate({
        "kind": kind, "stage": kind, "stage_version": 1, "key": "k", "attempt": "a",
        "spec": {}, "code_version": "0", "created_at": "2026-01-01T00:00:00Z",
    })  # fmt: skip
    return store.commit(folder, draft)


def test_an_address_names_an_artifact_and_a_file(store: ArtifactStore, tmp_path: Path) -> None:
    step = "checkpoints/step-000080.safetensors"
    uri = commit(store, tmp_path, "lora", ["lora.safetensors", step])
    plain = uri.partition("#")[0]
    assert pick(store, plain) == (plain, "lora.safetensors")
    assert pick(store, uri) == (uri, "lora.safetensors")  # with its hash, as a run tells it
    assert pick(store, f"{plain}#{step}") == (plain, step)
    assert pick(store, f"{uri}#{step}") == (uri, step)


@pytest.mark.parametrize(
    ("ending", "error", "words"),
    [
        ("#checkpoints/none.safetensors", SpecError, "it has: lora.safetensors"),
        ("#../../etc/passwd", SpecError, "without file"),
        ("#training.jsonl", SpecError, "without file"),
        ("#a.safetensors#b.safetensors", SpecError, "several files"),
        ("#sha256=" + "0" * 64, ArtifactError, "do not use it"),
    ],
)
def test_other_addresses_are_refused(
    store: ArtifactStore, tmp_path: Path, ending: str, error: type[Exception], words: str
) -> None:
    uri = commit(store, tmp_path, "lora", ["lora.safetensors", "training.jsonl"])
    with pytest.raises(error, match=words):
        pick(store, uri.partition("#")[0] + ending)


def test_other_artifacts_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    uri = commit(store, tmp_path, "plan", ["plan.json"])
    with pytest.raises(SpecError, match="is a plan without file"):
        pick(store, uri)
    with pytest.raises(SpecError, match="is no manifest"):
        pick(store, "file:///somewhere/else/manifest.json")
