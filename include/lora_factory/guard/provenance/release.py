"""Everything a release carries beside its weights, and the signature over all of it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from lora_factory import __version__
from lora_factory.contracts.evaluation import EvaluationReport
from lora_factory.contracts.registry import NewModel
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.contracts.training import TrainReport
from lora_factory.guard.ethics import complete_release
from lora_factory.guard.provenance.bom import BOM, write_bom
from lora_factory.guard.provenance.keys import SigningKey
from lora_factory.guard.provenance.lineage import dataset_manifest, trace
from lora_factory.guard.provenance.signing import sign_folder
from lora_factory.store.artifacts import ArtifactStore

log = logging.getLogger(__name__)
LINEAGE, DATASET = "lineage.json", "dataset.manifest.json"
FROM_EVALUATION = {
    "README.md": "README.md",
    "samples": "samples",
    "ethics.json": "ethics.json",
    "report.json": "evaluation.json",
}
"""Files and folders of the evaluation that go with the release, where it has them."""


@dataclass(frozen=True)
class Attached:
    """What a release got: images listed (None: the dataset can't be read any more)."""

    images: int | None
    lineage_complete: bool


def attach(
    out: Path, model: NewModel, lora: LocalArtifact, evaluation: LocalArtifact, store: ArtifactStore
) -> Attached:
    """Write model card, ethics report, dataset manifest, lineage and bill of materials.

    Raises:
        ArtifactError: the dataset's records are damaged.
        ServiceUnavailable: the store did not answer.
    """
    for name, target in FROM_EVALUATION.items():
        if (evaluation.path / name).is_dir():
            shutil.copytree(evaluation.path / name, out / target)
        elif (evaluation.path / name).is_file():
            shutil.copyfile(evaluation.path / name, out / target)
    lineage, manifests = trace(store, (lora, evaluation), __version__)
    source = next((entry for entry in lora.manifest.inputs if entry.name == "dataset"), None)
    dataset = None
    if source is not None:
        dataset = dataset_manifest(store, source.manifest_uri, source.sha256, manifests)
    (out / LINEAGE).write_text(lineage.model_dump_json(indent=1), encoding="utf-8")
    if dataset:
        (out / DATASET).write_text(dataset.model_dump_json(indent=1), encoding="utf-8")
    else:
        log.warning("no %s: the dataset can't be read any more", DATASET)
    reports = (
        TrainReport.model_validate(lora.manifest.stats),
        EvaluationReport.model_validate(evaluation.manifest.stats),
    )
    write_bom(out / BOM, model, reports, lineage, dataset)
    return Attached(len(dataset.items) if dataset else None, lineage.complete)


def sign_release(out: Path, key: SigningKey | None) -> None:
    """Complete the ethics report and sign every file in ``out``, the last thing done to it.

    Without a key, say so.

    Raises:
        ConfigurationError: the key can't sign.
    """
    complete_release(out, signed=key is not None)
    if key is None:
        log.warning("the release is NOT signed: LORA_FACTORY_SIGNING_KEY is not set")
    else:
        log.info("release signed: %s, key %s", sign_folder(out, key).name, key.fingerprint[:16])
