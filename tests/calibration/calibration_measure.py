"""Draws what calibration looks at, through the evaluator itself, and remembers it.

Pictures stay in ``build/calibration`` (keyed by the adapter's hash, prompt and seed), what the
scorer saw of them in one ``Seen`` a case. Raw measurements don't depend on the constants, so
fitting needs nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from calibration_cases import Case
from calibration_styles import write_dataset

from lora_factory.contracts.evaluation import Constants
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.diffusion.families import load_base
from lora_factory.evaluate import metrics
from lora_factory.evaluate.data import load_style
from lora_factory.evaluate.evaluator import Evaluation, LoRAEvaluator
from lora_factory.evaluate.pairs import Adapter, Painter, Timings
from lora_factory.guard.output import output_guard
from lora_factory.models.loaders import image_text_scorer
from lora_factory.models.profiles import load_profile

BUILD = Path(__file__).parents[2] / "build" / "calibration"
SPEC = EvaluateSpec(lora="file:///lora", dataset="file:///dataset")
"""The stage's defaults: what is calibrated is what runs."""
FROM_PICTURES = ("effect", "no_blank_images", "no_copies", "safe_images")
ANCHORED = ("fidelity", "alignment", "diversity", "drift")


@dataclass(frozen=True)
class Seen:
    """What an evaluation saw of one case, before any constant."""

    pairs: metrics.Pairs
    drift: metrics.Drift
    sight: metrics.Readable
    closed: tuple[str, ...]
    """Gates that the pictures closed."""

    def save(self, file: Path) -> None:
        arrays = {
            f"{of}.{name}": array.astype(np.float16) if array.dtype == np.float32 else array
            for of, held in (("pairs", self.pairs), ("drift", self.drift))
            for name, array in vars(held).items()
            if isinstance(array, np.ndarray) and name in held.__dataclass_fields__
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            file, **arrays, sight=np.array(self.sight), closed=np.array(self.closed, dtype=str)
        )

    @classmethod
    def load(cls, file: Path) -> Seen:
        with np.load(file, allow_pickle=False) as data:
            parts: dict[str, dict[str, np.ndarray]] = {"pairs": {}, "drift": {}}
            for key in data.files:
                of, _, name = key.partition(".")
                if name:
                    wide = data[key].dtype == np.float16
                    parts[of][name] = data[key].astype(np.float32) if wide else data[key]
            return cls(
                metrics.Pairs(**parts["pairs"]),
                metrics.Drift(**parts["drift"]),
                metrics.Readable(*data["sight"].tolist()),
                tuple(data["closed"].tolist()),
            )


class Rig:
    """Base, scorer and guard, loaded once."""

    def __init__(self, build: Path = BUILD) -> None:
        self.build = build
        self.settings = Settings(scratch=build, threads=1)
        profile = load_profile(SPEC.profile, self.settings)
        self.entry = profile.base(None, "art")
        self.base = load_base(self.entry)
        self.scorer_revision = profile.role("image_text_scorer").resolve_revision()
        self.scorer = image_text_scorer(profile)
        self.guard = output_guard(profile, self.settings)
        self.timings = Timings(*(np.ones(5) for _ in range(3)))
        """Not measured: speed tells nothing of whether a LoRA is sound."""

    def evaluator(self, case: Case, constants: Constants) -> LoRAEvaluator:
        """An evaluator that has drawn the case's pictures, or found them."""
        folder = self.build / "datasets" / case.style.name
        if not folder.exists():
            write_dataset(folder, case.style.name)
        ctx = StageContext({}, self.build / "out", self.build, self.settings)
        data = load_style(folder, self.scorer, stored=False, check_stop=ctx.check_stop)
        painter = Painter(self.base, self.entry.resolve_revision(), SPEC, ctx)
        evaluator = LoRAEvaluator(painter, data, self.scorer, constants, self.guard)
        adapter = Adapter.load(self.base, "evaluated", self.file_of(case))
        try:
            evaluator.draw(adapter)
        finally:
            self.base.drop_adapter("evaluated")
        evaluator.test_inference_speed = lambda: self.timings  # type: ignore[method-assign]
        return evaluator

    def evaluation(self, case: Case, constants: Constants) -> Evaluation:
        return self.evaluator(case, constants).run_evaluation()

    def look(self, case: Case) -> Seen:
        evaluator = self.evaluator(case, Constants())
        found = evaluator._gates()
        closed = [g.name for g in found if g.name in FROM_PICTURES and not g.passed]
        return Seen(evaluator.pairs, evaluator.drift, evaluator.sight, tuple(closed))

    def file_of(self, case: Case) -> Path:
        """The adapter; a zeroed one is made of a sound one."""
        if case.kind != "zeroed":
            return case.file
        from safetensors.torch import load_file, save_file

        file = self.build / "zeroed" / f"{case.style.name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = load_file(case.file)
        save_file({n: t * 0 if "lora_B" in n else t for n, t in tensors.items()}, file)
        return file
