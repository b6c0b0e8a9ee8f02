"""What a training does about what it sees: each reaction is logged with its evidence."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lora_factory.contracts.options import TrainingAction
from lora_factory.errors import TrainingError
from lora_factory.train import course
from lora_factory.train.schedule import epoch_turns

if TYPE_CHECKING:
    from lora_factory.contracts.training import StoppedBy, TrainPlan
    from lora_factory.train.monitor import Evidence, TrainingMonitor
    from lora_factory.train.state import TrainingState

log = logging.getLogger(__name__)
SMALL_GRADIENT = 0.1  # article, 3.2: gradients under this let the batch grow
GROWTH_EPOCHS = 5  # article, 3.2: every fifth epoch


class Reactions:
    """Changes the course of a training, or says what ends it."""

    def __init__(self, plan: TrainPlan, state: TrainingState, monitor: TrainingMonitor) -> None:
        self._plan, self._state, self._monitor = plan, state, monitor

    def to_probe(self) -> StoppedBy | None:
        """Collapse first: what it does to validation looks like overfitting, too."""
        state, monitor = self._state, self._monitor
        if state.step >= self._plan.steps:
            return None
        if (seen := monitor.detect_mode_collapse(state.course.since)) is not None:
            return self._collapsed(seen)
        if (seen := monitor.detect_overfitting(state.course.since)) is not None:
            return self._overfitted(seen)
        return None

    def to_limits(self, minutes: float, *, asked: bool) -> StoppedBy | None:
        """A person's request, or the time allowed."""
        limit = self._plan.options.max_gpu_minutes
        if asked:
            self._act("request", "a person asked to stop: best weights kept", {})
            return "request"
        if limit is not None and minutes >= limit:
            self._act("time", f"{limit:g} minutes are used: best kept", {"minutes": minutes})
            return "time"
        return None

    def to_memory(self, error: RuntimeError, processes: int) -> None:
        """Out of memory: fewer images at a time, as many in a step as before.

        Raises:
            TrainingError: less is not possible.
        """
        now = self._state.course
        less = course.shrink(now) if processes == 1 else None
        if less is None:
            msg = (
                f"training ran out of memory with {now.micro_batch} image(s) at a time in each of "
                f"{processes} process(es); lower the batch size, the resolution or the rank"
            )
            raise TrainingError(msg) from error
        did = "out of memory with one image at a time: gradient checkpointing is on"
        if less.micro_batch < now.micro_batch:
            did = (
                f"out of memory: {less.micro_batch} instead of {now.micro_batch} images at a time, "
                "as many in a step as before"
            )
        self._act("memory", did, {"images_at_a_time": float(less.micro_batch)})
        self._state.hold(less)

    def to_gradients(self, before: int) -> None:
        """Let the batch grow at the end of every fifth epoch, where gradients are small."""
        now, norms = self._state.course, self._monitor.norms
        if not self._plan.options.grow_batch or now.batches >= course.MOST_BATCHES:
            return
        epoch = epoch_turns(self._plan)
        if int(self._state.step / epoch / GROWTH_EPOCHS) == int(before / epoch / GROWTH_EPOCHS):
            return
        last = norms[-max(1, round(epoch / now.batches)) :]
        norm = sum(last) / len(last)
        if norm < SMALL_GRADIENT:
            more = course.grow(now)
            did = f"{more.batches} batches in a step instead of {now.batches}, √2 × the rate"
            self._act("batch", did, {"grad_norm": norm})
            self._state.hold(more)

    def _collapsed(self, seen: Evidence) -> StoppedBy | None:
        state = self._state
        if state.course.calmed >= course.MOST_CALMED:
            self._act("collapse", f"again: stopping, best of step {state.best_step} kept", seen)
            return "collapse"
        state.hold(course.calm(state.course, state.step))
        did = (
            f"back to step {state.best_step}, learning rate × {state.course.learning_rate_scale:g},"
            f" noise {state.course.noise:g} on the latents"
        )
        self._act("collapse", did, seen)
        state.restore_best()
        return None

    def _overfitted(self, seen: Evidence) -> StoppedBy | None:
        state = self._state
        if self._plan.options.on_overfit == "stop" or state.course.regularised:
            self._act("overfit", f"stopping, best of step {state.best_step} kept", seen)
            return "overfit"
        state.hold(course.regularise(state.course, state.step))
        now = state.course
        did = (
            f"back to step {state.best_step} and on, once: weight decay {now.weight_decay:g}, "
            f"dropout {now.dropout:g}, caption dropout {now.caption_dropout:g}, learning rate × "
            f"{now.learning_rate_scale:g}"
        )
        self._act("overfit", did, seen)
        state.restore_best()
        return None

    def _act(self, what: Any, did: str, evidence: Evidence) -> None:
        step = self._state.step
        log.info("step %d, %s: %s %s", step, what, did, evidence or "")
        self._monitor.act(TrainingAction(step=step, what=what, did=did, evidence=evidence))
