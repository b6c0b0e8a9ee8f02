"""Bill of materials of a LoRA: CycloneDX 1.6 with a model card (an ML-BOM).

The library's model knows machine-learning components, but neither ``modelCard`` nor ``data``;
those two are added to its JSON. Tests validate the whole against the schema it ships.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_factory import __version__
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.training import TrainReport
from lora_factory.guard.provenance.lineage import DatasetManifest, Lineage

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

BOM = "bom.cdx.json"
LORA, BASE, DATASET = "lora", "base", "dataset"


def write_bom(
    path: Path,
    model: NewModel,
    reports: tuple[TrainReport, EvaluationReport],
    lineage: Lineage,
    dataset: DatasetManifest | None,
) -> None:
    """Write the bill of materials.

    Args:
        path: file to write.
        model: the LoRA as it is published.
        reports: of its training and of its evaluation.
        lineage: models with their revisions are taken from it.
        dataset: its images by licence; None: could not be read, and is named only.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    bom = Bom()
    bom.metadata.tools.components.add(_software())
    lora = _lora(model, reports[0])
    bom.metadata.component = lora
    revisions = lineage.models()
    base = _model(BASE, model.base, revisions.pop(f"base:{model.base}", "unknown"))
    data = _dataset(model, dataset)
    others = [
        _model(f"role-{index}", role, revision)
        for index, (role, revision) in enumerate(sorted(revisions.items()))
        if revision != "none"  # a role that has no model of its own
    ]
    for component in (base, data, *others):
        bom.components.add(component)
    bom.register_dependency(lora, [base, data])
    bom.register_dependency(data, others)  # they filtered, labelled and judged it
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(model, reports)
    for component in document["components"]:
        if component.get("bom-ref") == DATASET:
            component["data"] = [_data(model, dataset)]
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _software() -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(name="LoRA Factory", version=__version__, type=ComponentType.APPLICATION)


def _lora(model: NewModel, trained: TrainReport) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=model.name,
        version=model.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=LORA,
        description=f"LoRA of rank {trained.rank} for {model.base}, trigger word {model.trigger}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model.sha256)],
        properties=_properties({"lora": model.lora, "evaluation": model.evaluation}),
    )


def _model(ref: str, name: str, revision: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    digest = revision.removeprefix("sha256:")
    # The revision of local files is a hash over all of them, no file's own.
    known = digest if digest != revision and len(digest) == 64 else None
    return Component(
        name=name,
        version=revision,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ref,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=known)] if known else [],
    )


def _dataset(model: NewModel, dataset: DatasetManifest | None) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    known = dataset.sha256 if dataset else None
    return Component(
        name=f"{model.name} training images",
        version=known[:12] if known else "unknown",
        type=ComponentType.DATA,
        bom_ref=DATASET,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=known)] if known else [],
        licenses=_licences(dataset.licences if dataset else ()),
    )


def _licences(names: Iterable[str]) -> list[License]:
    """SPDX ids as such, everything else (``own``, ``unknown``) by its name."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    factory = LicenseFactory()
    return [factory.make_from_string(name) for name in names]


def _properties(values: dict[str, str]) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=f"lora-factory:{name}", value=value) for name, value in values.items()]


def _data(model: NewModel, dataset: DatasetManifest | None) -> dict[str, Any]:
    counts = dataset.licences if dataset else {}
    properties = [
        {"name": f"lora-factory:images:{name}", "value": str(count)}
        for name, count in counts.items()
    ]
    return {
        "type": "dataset",
        "name": f"{model.name} training images",
        "contents": {"url": model.dataset or "", "properties": properties},
        "description": "Each image's source, licence and evidence: dataset.manifest.json",
    }


def _model_card(model: NewModel, reports: tuple[TrainReport, EvaluationReport]) -> dict[str, Any]:
    trained, judged = reports
    metrics = [_metric("overall", judged.overall, judged.overall_low, None)]
    metrics += [
        _metric(metric.name, metric.score, metric.low, metric.high)
        for metric in judged.metrics
        if metric.score is not None
    ]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-to-image",
            "architectureFamily": "latent diffusion",
            "modelArchitecture": f"LoRA, rank {trained.rank}, on {model.base}",
            "datasets": [{"ref": DATASET}],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "image"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {
            "technicalLimitations": [
                f"scores by {judged.scorer}, verdict {judged.verdict}, threshold "
                f"{judged.threshold:g}; not calibrated on people"
            ],
        },
    }


def _metric(name: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    bounds = {"lowerBound": low, "upperBound": high}
    interval = {key: f"{bound:.4f}" for key, bound in bounds.items() if bound is not None}
    metric: dict[str, Any] = {"type": name, "value": f"{value:.4f}"}
    return metric | ({"confidenceInterval": interval} if interval else {})
