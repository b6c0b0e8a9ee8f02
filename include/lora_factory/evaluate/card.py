"""The model card, ``README.md`` (article, 3.2 ``generate_lora_card``).

Hugging Face's metadata and text. Every number in it is copied from the evaluation's report or
from the manifests of LoRA and dataset; nothing is computed here, and nothing is looked up on
the network. Words that come from crawled pages are escaped, so that they can't become markup.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import ValidationError

from lora_factory.contracts.evaluation import DataStatistics
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, read_jsonl
from lora_factory.errors import DataError
from lora_factory.evaluate.html import GATES, verdict_in_words
from lora_factory.reporting.markdown import (
    LICENCES,
    licence_id,
    licence_rank,
    literal,
    plain,
    render_markdown,
)

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from lora_factory.contracts.evaluation import EvaluationReport
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.contracts.training import TrainReport
    from lora_factory.models.profiles import BaseEntry

FOLDER = Path(__file__).parent
TAGS = ("text-to-image", "lora", "diffusers", "template:diffusion-lora")
WIDGETS = 6
"""Sample pictures a card shows."""
MOST_HOSTS = 20


@dataclass(frozen=True)
class CardSources:
    """What a card tells of; ``samples`` are (prompt, picture's path beside the card)."""

    report: EvaluationReport
    trained: TrainReport
    lora: LocalArtifact
    dataset: LocalArtifact
    base: BaseEntry
    samples: Sequence[tuple[str, str]] = ()


def generate_lora_card(sources: CardSources) -> str:
    """The card: metadata and Markdown.

    Raises:
        DataError: the dataset's ``dataset.json`` can't be read.
    """
    from huggingface_hub import ModelCard

    info = _info(sources.dataset.path)
    licence, why = inherited_licence(_licences(sources), sources.base.licence or "unknown")
    text = render_markdown(
        FOLDER,
        "card.md.j2",
        sources=sources,
        report=sources.report,
        trained=sources.trained,
        info=info,
        name=_name(info),
        base=_base(sources.base),
        words=verdict_in_words(sources.report),
        licence_reason=why,
        prompt=sources.samples[0][0] if sources.samples else sources.report.trigger,
        gates=GATES,
        literal=literal,
    )
    metadata = _metadata(sources, _name(info), licence)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}"))


def data_statistics(dataset: Path) -> DataStatistics:
    """Count what a dataset artifact holds, and what the pipeline dropped before it.

    Raises:
        DataError: its records can't be read.
    """
    info = _info(dataset)
    licences: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    for part in ("train", "validation"):
        file = dataset / part / "metadata.jsonl"
        for record in read_jsonl(file, DatasetRecord) if file.exists() else ():
            licences[record.licence] += 1
            hosts[_host(record.source)] += 1
    most = dict(hosts.most_common(MOST_HOSTS))
    if rest := hosts.total() - sum(most.values()):
        most["others"] = rest
    return DataStatistics(
        train=info.train,
        validation=info.validation,
        resolution=info.resolution,
        licences=dict(licences.most_common()),
        hosts=most,
        dropped=_dropped(dataset / "audit.parquet"),
    )


def inherited_licence(licences: Mapping[str, int], base: str) -> tuple[str, str]:
    """Hugging Face's id of the most restrictive licence, and how it was found, in words."""
    every = sorted({*licences, base}, key=lambda name: (licence_rank(name), name))
    strictest = every[-1]
    known = strictest in LICENCES
    images = ", ".join(f"{name} ({count} images)" for name, count in licences.items()) or "none"
    why = (
        f"The most restrictive of the licences of its training images ({images}) and of the base "
        f"({base}): {strictest}. All of them apply to what they cover. Not legal advice"
    )
    if not known:
        why += f"; {strictest} is no licence this program can compare, so ask before you use it"
    return licence_id(strictest), why


def _licences(sources: CardSources) -> dict[str, int]:
    return sources.report.data.licences if sources.report.data else {}


def _metadata(sources: CardSources, name: str, licence: str) -> ModelCardData:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=_base(sources.base),
        license=licence,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=list(TAGS),
        model_name=name,
        eval_results=_results(sources, name),
        base_model_relation="adapter",
        instance_prompt=plain(sources.report.trigger),
        widget=[{"text": plain(text), "output": {"url": path}} for text, path in sources.samples],
    )


def _results(sources: CardSources, name: str) -> list[EvalResult]:
    """Scores for the metadata's model index; metrics that abstain have none."""
    from huggingface_hub import EvalResult

    report = sources.report
    scores: dict[str, float] = {
        metric.name: metric.score for metric in report.metrics if metric.score is not None
    }
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type="imagefolder",
            dataset_name=name,
            dataset_revision=sources.dataset.sha256,
            metric_type=metric,
            metric_name=f"{metric}, 0 to 1, not calibrated on people",
            metric_value=score,
        )
        for metric, score in {**scores, "overall": report.overall}.items()
    ]


def _info(dataset: Path) -> DatasetInfo:
    try:
        return DatasetInfo.model_validate_json((dataset / "dataset.json").read_bytes())
    except (OSError, ValidationError) as err:
        msg = f"dataset at {dataset} can't be read: {str(err).splitlines()[0]}; make it anew"
        raise DataError(msg) from err


def _name(info: DatasetInfo) -> str:
    """The article's ``domain_style``."""
    return f"{info.domain}_{re.sub(r'[^a-z0-9]+', '-', info.style.lower()).strip('-') or 'style'}"


def _base(entry: BaseEntry) -> str:
    """Hub id where the base has one, else its name in the profile."""
    return entry.model or entry.name


def _host(source: str) -> str:
    try:
        return urlsplit(source).hostname or "no host (a folder)"
    except ValueError:
        return "unreadable URL"


def _dropped(audit: Path) -> dict[str, int]:
    """``stage: reason`` → images, the most frequent first; empty without the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(audit, columns=["what", "stage", "verdict", "reason"])
    except FileNotFoundError:
        return {}
    except (OSError, pa.ArrowException) as err:
        msg = f"{audit} can't be read: {str(err).splitlines()[0]}; make the dataset anew"
        raise DataError(msg) from err
    found = Counter(
        f"{row['stage']}: {row['reason']}"
        for row in columns.to_pylist()
        if row["what"] == "image" and row["verdict"] == "dropped"
    )
    return dict(found.most_common())
