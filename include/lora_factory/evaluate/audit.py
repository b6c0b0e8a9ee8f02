"""The ethics part of an evaluation: pictures for the bias audit, and the report around it.

The pictures are looked at by the scorer and not published.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_factory.diffusion.base import GenerationRequest
from lora_factory.evaluate.prompts import EvalPrompt
from lora_factory.guard.bias.attributes import vocabulary
from lora_factory.guard.bias.audit import Shot, not_audited, run_bias_audit
from lora_factory.guard.bias.projection import FairProjection
from lora_factory.guard.content import check_prompt
from lora_factory.guard.ethics import FILE, generate_ethics_report

if TYPE_CHECKING:
    from PIL.Image import Image

    from lora_factory.contracts.copyright import CopyrightCheck
    from lora_factory.contracts.ethics import BiasAudit, EthicsReport, Side
    from lora_factory.contracts.records import DatasetInfo
    from lora_factory.evaluate.pairs import Adapter, Painter
    from lora_factory.guard.bias.attributes import Attribute
    from lora_factory.guard.ethics import Subject
    from lora_factory.models.roles import ImageTextScorer, Vectors

log = logging.getLogger(__name__)
CHUNK = 256
"""Pictures held at once."""


def audit_bias(
    painter: Painter, adapter: Adapter, scorer: ImageTextScorer, info: DatasetInfo
) -> BiasAudit:
    """Audit a LoRA for bias, on at most as many pictures as the painter's spec allows.

    To be called before anything is fused into the base's weights, since its pictures are kept.

    Args:
        painter: of the evaluation.
        adapter: the LoRA, loaded.
        scorer: reads the pictures.
        info: of the LoRA's dataset: trigger and style.

    Raises:
        Interrupted: the stage was asked to stop.
    """
    look = _Look(painter, adapter, scorer, info)
    if not check_prompt(look.prompt("lora", "a person")).allowed:
        return not_audited("not audited: the prompt filter blocks the words of trigger and style")
    spec = painter.spec
    found = run_bias_audit(
        look,
        scorer.embed_texts,
        spec.audit_pictures,
        spec.seed,
        prompt=lambda person: look.prompt("lora", person),
    )
    settings = {"scorer": scorer.name, "steps": spec.steps, "guidance": spec.guidance}
    log.info("bias audit: %s", found.note)
    return found.model_copy(update=settings)


def audit(subject: Subject, bias: BiasAudit, checks: Sequence[CopyrightCheck] = ()) -> EthicsReport:
    """The report on an evaluation's findings.

    Args:
        subject: what the report is about.
        bias: of :func:`audit_bias`.
        checks: the copyright checks that the evaluation made.
    """
    report = generate_ethics_report(subject, bias, checks)
    log.info("transparency score %.2f", report.transparency_score)
    return report


def write_ethics(out: Path, report: EthicsReport) -> None:
    """``ethics.json``."""
    (out / FILE).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


class _Look:
    """Makes the audit's pictures and embeds them (:class:`lora_factory.guard.bias.audit.Look`)."""

    def __init__(
        self, painter: Painter, adapter: Adapter, scorer: ImageTextScorer, info: DatasetInfo
    ) -> None:
        self._painter = painter
        self._adapter = adapter
        self._scorer = scorer
        style = info.style if info.style != "unknown" else ""
        # The article's first template; the base gets the person alone, so that its pictures
        # serve every LoRA.
        self._ending = f", {info.trigger} in the style of {style}" if style else f", {info.trigger}"

    def prompt(self, side: Side, person: str) -> str:
        """What a side is asked for."""
        return person if side == "base" else person + self._ending

    def __call__(
        self, side: Side, shots: Sequence[Shot], mitigate: Sequence[Attribute] = ()
    ) -> Vectors:
        """See :class:`lora_factory.guard.bias.audit.Look`."""
        parts = [
            self._scorer.embed_images(self._draw(side, shots[start : start + CHUNK], mitigate))
            for start in range(0, len(shots), CHUNK)
        ]
        return np.concatenate(parts)

    def _draw(
        self, side: Side, shots: Sequence[Shot], mitigate: Sequence[Attribute]
    ) -> list[Image]:
        prompts = [self.prompt(side, shot.person) for shot in shots]
        seeds = [shot.seed for shot in shots]
        if side == "mitigated":
            return self._mitigated(prompts, seeds, mitigate)
        return self._painter.paint(
            [EvalPrompt(text, seed, -1) for text, seed in zip(prompts, seeds, strict=True)],
            None if side == "base" else self._adapter,
            what="audit pictures",
        )

    def _mitigated(
        self, prompts: Sequence[str], seeds: Sequence[int], attributes: Sequence[Attribute]
    ) -> list[Image]:
        """The LoRA with its text projected; these few are made anew by a retry."""
        painter, base = self._painter, self._painter.base
        painter.ctx.check_stop()
        base.use_adapter(self._adapter.name)

        return base.generate(
            [GenerationRequest(text, seed) for text, seed in zip(prompts, seeds, strict=True)],
            steps=painter.spec.steps,
            guidance=painter.spec.guidance,
            batch_size=base.entry.batch_size,
            on_step=lambda _done, _all: not painter.ctx.stop.is_set(),
            text_projection=FairProjection(attributes, base.encode_texts, vocabulary().contexts),
        )
