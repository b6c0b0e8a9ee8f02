"""One measurement with its bootstrap: the estimate first, then the replicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.contracts.evaluation import Metric, MetricName
from lora_factory.evaluate.statistics import interval

if TYPE_CHECKING:
    from lora_factory.evaluate.statistics import Floats


@dataclass(frozen=True)
class Measured:
    """A metric in the making: ``value`` and ``score`` are 1 + B numbers each.

    ``score`` None: it has no scale, or abstains; ``counted``: it enters the overall score.
    """

    name: MetricName
    unit: str
    value: Floats
    score: Floats | None
    n: int
    note: str = ""
    scorer: str = ""
    counted: bool = False

    def metric(self) -> Metric:
        """The estimate with its 95% intervals."""
        value_low, value_high = interval(self.value[1:])
        low = high = score = None
        if self.score is not None:
            score = float(self.score[0])
            low, high = interval(self.score[1:])
        return Metric(
            name=self.name,
            value=float(self.value[0]),
            unit=self.unit,
            score=score,
            low=low,
            high=high,
            value_low=value_low,
            value_high=value_high,
            n=self.n,
            note=self.note,
            counted=self.counted,
            scorer=self.scorer,
        )
