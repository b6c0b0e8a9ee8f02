"""The dataset card, ``README.md``: Hugging Face's metadata, sources, licences, what was dropped.

Its ``configs`` name the splits, so that ``load_dataset`` finds them by the card as well as by
the folders. Nothing is computed here that isn't in the report or the records.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory.reporting.markdown import licence_id, licence_rank, plain, render_markdown

if TYPE_CHECKING:
    from lora_factory.contracts.records import DatasetInfo
    from lora_factory.contracts.stage import LocalArtifact
    from lora_factory.label.report import LabelReport
    from lora_factory.label.summary import Summary

FOLDER = Path(__file__).parent
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Hugging Face's ``size_categories``."""


def dataset_card(
    info: DatasetInfo, report: LabelReport, summary: Summary, clean: LocalArtifact
) -> str:
    """The card: metadata and Markdown. Crawled words in it can't become markup."""
    from huggingface_hub import DatasetCard, DatasetCardData

    metadata = DatasetCardData(
        license=[*dict.fromkeys(licence_id(name) for name in _by_rank(summary))],
        pretty_name=plain(_name(info)),
        task_categories=["text-to-image"],
        size_categories=[_size(info.train + info.validation)],
        tags=["lora", "imagefolder", plain(info.style), plain(info.theme)],
        configs=_configs(info),
    )
    text = render_markdown(
        FOLDER,
        "card.md.j2",
        name=_name(info),
        info=info,
        report=report,
        summary=summary,
        licences=_by_rank(summary),
        clean=clean,
    )
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}"))


def _name(info: DatasetInfo) -> str:
    return f"{info.theme}, {info.style} ({info.trigger})"


def _by_rank(summary: Summary) -> list[str]:
    """Licences, the most restrictive first."""
    return sorted(summary.licences, key=lambda name: (-licence_rank(name), name))


def _size(count: int) -> str:
    return next((name for limit, name in SIZES if count < limit), "1M<n<10M")


def _configs(info: DatasetInfo) -> list[dict[str, Any]]:
    splits = ["train"] + (["validation"] if info.validation else [])
    files = [{"split": name, "path": f"{name}/**"} for name in splits]
    return [{"config_name": "default", "data_files": files}]
