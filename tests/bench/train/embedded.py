"""Our training loop beside a plain one, on the embedded base, in turns in one process.

The plain one is written as diffusers' ``train_text_to_image_lora.py`` does it: each step opens
and transforms its pictures, encodes them with the VAE and their captions with the text encoder,
runs the UNet with peft's LoRA, AdamW, gradient clipping. Same base, pictures, batch, layers, rank,
resolution, threads. The encoding cache of ours is filled before; what that took is printed.

train.steps_vs_diffusers_example: our steps/s over the plain loop's.
train.speedup_vs_uncached_bound: that, over (t_VAE + t_text + t_UNet) / t_UNet of the plain loop:
what a loop would gain that encodes nothing and is otherwise the same. t_UNet: forward and
backward.
train.overhead_share: of our loop's time, what is neither forward, backward nor optimizer. Looks at
the fixed probes (forward passes over the validation set) are apart; their share is printed.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from accelerate import Accelerator  # noqa: E402
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # noqa: E402
from diffusers.optimization import get_scheduler  # noqa: E402
from peft import LoraConfig  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402

from lora_factory.contracts.training import TrainPlan  # noqa: E402
from lora_factory.train.cache import open_cache  # noqa: E402
from lora_factory.train.loop import Data, LoRATrainer  # noqa: E402
from lora_factory.train.stage import ADAPTER, load_data  # noqa: E402
from lora_factory.train.state import Adapter  # noqa: E402
from training_data import (  # noqa: E402
    context,
    embedded_base,
    make_dataset,
    make_plan,
    plan_artifact,
)

THREADS, STEPS, TRIES, BATCH, RANK, TRAIN, VALIDATION = 1, 12, 7, 16, 16, 96, 24
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_in", "conv_out", "conv_shortcut", "time_emb_proj"),
)
"""Of the plan that tune makes for the demo."""


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return work(*args, **kwargs)

        return run


class Pictures(torch.utils.data.Dataset):  # type: ignore[misc]
    """Transformed pictures and token ids, as the example's preprocessing gives them."""

    def __init__(self, folder: Path, plan: TrainPlan, tokenizer: Any) -> None:
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        self._files = [folder / row["file_name"] for row in rows]
        self._side = plan.resolution
        self._ids = tokenizer(
            [row["text"] for row in rows],
            max_length=tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self._files[index]) as opened:
            image = opened.convert("RGB").resize((self._side, self._side), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        return (pixels - 0.5) / 0.5, self._ids[index]


class Plain:
    """``train_text_to_image_lora.py``."""

    def __init__(self, plan: TrainPlan, folder: Path, location: str, clip: str) -> None:
        self._clock = Clock()
        self._accelerator = Accelerator(cpu=True)
        tokenizer = CLIPTokenizer.from_pretrained(clip, subfolder="tokenizer")
        self._text = CLIPTextModel.from_pretrained(clip, subfolder="text_encoder")
        self._vae = AutoencoderKL.from_pretrained(location, subfolder="vae")
        unet = UNet2DConditionModel.from_pretrained(location, subfolder="unet")
        self._schedule = DDPMScheduler.from_pretrained(location, subfolder="scheduler")
        for part in (self._text, self._vae, unet):
            part.requires_grad_(False)
        unet.add_adapter(
            LoraConfig(
                r=plan.rank,
                lora_alpha=plan.alpha,
                init_lora_weights="gaussian",
                target_modules=list(plan.target_modules),
            )
        )
        self._weights = [weight for weight in unet.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(self._weights, lr=plan.learning_rate)
        loader = torch.utils.data.DataLoader(
            Pictures(folder, plan, tokenizer), batch_size=plan.batch_size, shuffle=True
        )
        self._unet, self._optimizer, self._loader, self._rates = self._accelerator.prepare(
            unet, optimizer, loader, get_scheduler("constant", optimizer)
        )

    def run(self, steps: int) -> tuple[float, dict[str, float]]:
        """Seconds of some steps, and of their parts."""
        self._clock.seconds.clear()
        self._unet.train()
        started, done = time.perf_counter(), 0
        while True:
            for pixels, ids in self._loader:
                if done == steps:
                    return time.perf_counter() - started, dict(self._clock.seconds)
                self._step(pixels, ids)
                done += 1

    def _step(self, pixels: torch.Tensor, ids: torch.Tensor) -> None:
        with self._clock("vae"):
            latents = self._vae.encode(pixels).latent_dist.sample()
            latents = latents * self._vae.config.scaling_factor
        noise = torch.randn_like(latents)
        count = self._schedule.config.num_train_timesteps
        times = torch.randint(0, count, (len(latents),)).long()
        noised = self._schedule.add_noise(latents, noise, times)
        with self._clock("text"):
            states = self._text(ids, return_dict=False)[0]
        target = noise
        if self._schedule.config.prediction_type == "v_prediction":
            target = self._schedule.get_velocity(latents, noise, times)
        with self._clock("unet"):
            predicted = self._unet(noised, times, states, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
            self._accelerator.backward(loss)
        self._accelerator.gather(loss.repeat(len(latents))).mean().item()
        self._accelerator.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._rates.step()
        self._optimizer.zero_grad()


class Ours:
    """Short trainings by :class:`LoRATrainer`, each from its first step."""

    def __init__(self, plan: TrainPlan, base: Any, data: Data, work: Path) -> None:
        self._plan, self._base, self._data, self._work = plan, base, data, work
        self._runs = 0

    def run(self, steps: int) -> tuple[float, dict[str, float]]:
        """Seconds of the loop without probes, and of its parts; ``probe`` apart."""
        self._runs += 1
        clock, base = Clock(), self._base
        plan = self._plan.model_copy(update={"steps": steps})
        weights = base.add_adapter(ADAPTER, plan.rank, plan.alpha, plan.target_modules)
        ctx = context(self._work / f"run-{self._runs}")
        trainer = LoRATrainer(
            plan, base, self._data, Adapter(ADAPTER, weights, lambda _file, _step: None), ctx
        )
        trainer._probe = clock.timed("probe", trainer._probe)  # type: ignore[method-assign]
        trainer._objective = clock.timed("forward", trainer._objective)
        state = trainer._state
        state.optimizer.step = clock.timed("optimizer", state.optimizer.step)
        backward = torch.Tensor.backward
        torch.Tensor.backward = clock.timed("backward", backward)
        started = time.perf_counter()
        try:
            trainer.train()
        finally:
            torch.Tensor.backward = backward
        seconds = time.perf_counter() - started
        base.drop_adapter(ADAPTER)
        return seconds - clock.seconds["probe"], dict(clock.seconds)


def figure(value: float, goal: float, better: str, unit: str, against: str) -> dict[str, object]:
    return {
        "value": round(value, 4),
        "unit": unit,
        "goal": goal,
        "better": better,
        "against": against,
        "command": "make bench ONLY=train",
    }


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    plan = make_plan(
        rank=RANK, alpha=float(RANK), target_modules=TARGETS, batch_size=BATCH, steps=STEPS
    )
    base: Any = embedded_base()
    location = str(base.entry.location())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dataset = make_dataset(work / "dataset", train=TRAIN, validation=VALIDATION)
        ctx = context(work, dataset=dataset, plan=plan_artifact(work / "plan", plan))
        started = time.perf_counter()
        with open_cache(ctx.settings) as cache:
            data = load_data(plan, base, cache, ctx)
        filled = time.perf_counter() - started
        base.release_encoders()
        loops = {
            "ours": Ours(plan, base, data, work),
            "plain": Plain(plan, dataset.path / "train", location, location),
        }
        found = measure(loops, filled)
    for key, value in found.items():
        sys.stdout.write(json.dumps({key: value}) + "\n")


def measure(loops: dict[str, Any], filled: float) -> dict[str, dict[str, object]]:
    """All three figures; of some tries in turns, the fastest of each loop."""
    tries: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in loops}
    for number in range(TRIES + 1):
        for name, loop in loops.items():
            run = loop.run(STEPS)
            if number:  # the first warms up
                tries[name].append(run)
    ours, plain = (min(tries[name], key=lambda run: run[0]) for name in ("ours", "plain"))
    parts = {name: 1000 * seconds / STEPS for name, seconds in plain[1].items()}
    bound = (parts["vae"] + parts["text"] + parts["unet"]) / parts["unet"]
    faster = plain[0] / ours[0]
    spread = statistics.quantiles([p[0] / o[0] for o, p in zip(*tries.values(), strict=True)], n=4)
    against = (
        f"plain loop {1000 * plain[0] / STEPS:.1f} ms a step (VAE {parts['vae']:.1f}, text "
        f"{parts['text']:.1f}, UNet {parts['unet']:.1f}), ours {1000 * ours[0] / STEPS:.1f}; "
        f"quartiles of pairs {spread[0]:.2f} to {spread[2]:.2f}; cache built in {filled:.1f} s"
    )
    work = sum(ours[1][name] for name in ("forward", "backward", "optimizer"))
    shares = ", ".join(f"{name} {1000 * s / STEPS:.1f} ms" for name, s in sorted(ours[1].items()))
    overhead = statistics.median(
        1 - sum(run[1][name] for name in ("forward", "backward", "optimizer")) / run[0]
        for run in tries["ours"]
    )
    looked = f"a step of the fastest: {shares}; overhead there {1 - work / ours[0]:.3f}"
    return {
        "train.speedup_vs_uncached_bound": figure(
            faster / bound, 0.9, "higher", "ratio", f"bound {bound:.3f}; {against}"
        ),
        "train.steps_vs_diffusers_example": figure(faster, 1.2, "higher", "ratio", against),
        "train.overhead_share": figure(overhead, 0.05, "lower", "share", looked),
    }


if __name__ == "__main__":
    main()
