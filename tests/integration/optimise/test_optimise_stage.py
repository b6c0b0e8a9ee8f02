"""Stage optimise on the embedded base: each build draws what the LoRA draws."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lora_factory.contracts.evaluation import Advice, EvaluationReport
from lora_factory.contracts.manifest import InputEntry, Kind, Manifest
from lora_factory.contracts.optimise import BuildInfo, OptimiseReport
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import OptimiseSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.contracts.training import TrainReport
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ConfigurationError, ModelError, SpecError
from lora_factory.models.profiles import load_profile
from lora_factory.optimise import stage

pytestmark = pytest.mark.integration
PROMPTS = ("icnx, a red apple", "icnx, a blue car")
TRAINED = TrainReport(
    base="emoji",
    trigger="icnx",
    rank=4,
    steps=1,
    best_step=1,
    train_loss=0.2,
    validation_loss_before=0.3,
    validation_loss=0.2,
    images_per_second=1,
    peak_memory_mb=1,
)
JUDGED = EvaluationReport.model_validate({
    "verdict": "pass",
    "overall": 0.9,
    "overall_low": 0.88,
    "threshold": 0.85,
    "metrics": (),
    "gates": (),
    "advice": Advice(),
    "prompts": PROMPTS,
    "trigger": "icnx",
    "base": "emoji",
    "scorer": "s",
})


def artifact(kind: Kind, folder: Path, stats: BaseModel, **inputs: str) -> LocalArtifact:
    manifest = Manifest(
        kind=kind,
        stage="x",
        stage_version=1,
        key="0",
        attempt="a",
        spec={},
        inputs=tuple(
            InputEntry(name=name, manifest_uri="file:///x", sha256=sha256)
            for name, sha256 in inputs.items()
        ),
        stats=stats.model_dump(mode="json"),
        code_version="0",
        created_at=datetime.now(UTC),
    )
    return LocalArtifact(folder, manifest, folder.as_uri(), "1" * 64)


class Bench:
    """Runs the stage on one LoRA."""

    def __init__(self, folder: Path, lora: Path) -> None:
        (folder / "lora").mkdir()
        (folder / "lora" / "lora.safetensors").write_bytes(lora.read_bytes())
        self.folder = folder
        self.lora = artifact("lora", folder / "lora", TRAINED)
        self.evaluation = artifact("evaluation", folder, JUDGED, lora=self.lora.sha256)

    def run(self, step: str, **spec: Any) -> tuple[OptimiseReport, Path]:
        out = self.folder / step
        (out / "scratch").mkdir(parents=True)
        (out / "out").mkdir()
        inputs = {"lora": self.lora, "evaluation": self.evaluation}
        settings = Settings(threads=1, scratch=self.folder)
        ctx = StageContext(inputs, out / "out", out / "scratch", settings)
        given = {"lora": "l", "evaluation": "e", "step": step, "pictures": 2, "steps": 4} | spec
        return stage.run(OptimiseSpec.model_validate(given), ctx), ctx.out


@pytest.fixture
def bench(tmp_path: Path, make_lora: Callable[[int, float], Path]) -> Bench:
    return Bench(tmp_path, make_lora(3, 0.1))


def test_lower_ranks_make_a_smaller_lora_that_draws_nearly_the_same(bench: Bench) -> None:
    report, out = bench.run("truncate", energy=0.5)
    assert report.rank_after < report.rank_before == 4
    assert report.bytes_after < report.bytes_before
    assert 0 < report.difference < report.change
    info = BuildInfo.model_validate_json((out / "build.json").read_bytes())
    assert (info.form, info.file, info.base) == ("lora", "lora.safetensors", "emoji")


def test_fused_weights_draw_the_same_and_need_no_lora(bench: Bench) -> None:
    report, out = bench.run("fuse")
    assert report.difference < 0.5 < report.change
    assert report.bytes_after < report.bytes_before
    assert (report.form, report.rank_after) == ("weights", 0)
    assert {file.name for file in out.iterdir()} == {
        "build.json",
        "denoiser.safetensors",
        "lora.safetensors",
    }


def test_a_build_has_one_strength_and_the_base_stays_as_it_was(bench: Bench) -> None:
    _, out = bench.run("fuse")
    entry = load_profile("embedded", Settings()).base("emoji", "art")
    base = load_base(entry)
    base.load_build("hot", out)
    with pytest.raises(ModelError, match="strength 1"):
        base.use_adapter("hot", 0.5)
    with pytest.raises(ModelError, match="taken"):
        base.load_build("hot", out)
    base.drop_adapter("hot")
    with pytest.raises(ModelError):
        base.use_adapter("hot")
    info = out / "build.json"
    info.write_text(info.read_text().replace('"emoji"', '"another"'))
    with pytest.raises(ModelError, match="not of this"):
        base.load_build("hot", out)


def test_an_evaluation_of_another_lora_is_refused(bench: Bench) -> None:
    bench.evaluation = artifact("evaluation", bench.folder, JUDGED, lora="2" * 64)
    with pytest.raises(SpecError, match="not of LoRA"):
        bench.run("fuse")


def test_tensorrt_says_what_it_needs_before_it_exports(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="pip install tensorrt"):
        bench.run("tensorrt")


@pytest.mark.slow
@pytest.mark.parametrize(("step", "most"), [("onnx", 1.0), ("int8", 20.0), ("compile", 1.0)])
def test_other_engines_draw_what_torch_draws(bench: Bench, step: str, most: float) -> None:
    report, _ = bench.run(step)
    assert report.difference <= most
    assert report.change > 1.0
