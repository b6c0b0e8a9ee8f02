"""What a release was made from: each training image, and each artifact back to raw.

``dataset.manifest.json`` (:class:`DatasetManifest`) lists the images with source, licence and
where the licence was read; ``lineage.json`` (:class:`Lineage`) the artifacts with their
hashes, the models that worked on them, and the code's version.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract, Counts
from lora_factory.contracts.manifest import InputEntry, Kind, Manifest
from lora_factory.contracts.records import CleanRecord, DatasetRecord
from lora_factory.contracts.stage import LocalArtifact
from lora_factory.errors import ArtifactError, SpecError
from lora_factory.store.artifacts import ArtifactStore
from lora_factory.store.takedown import records_of

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Contract)


class LineageStep(Contract):
    """One artifact on the way."""

    kind: Kind
    uri: str
    sha256: str = Field(description="Of its manifest, which names every file with its hash")
    stage: str
    stage_version: int
    code_version: str
    created_at: datetime
    models: dict[str, str] = Field(description="Role → revision")
    inputs: dict[str, str] = Field(description="Name → sha256 of the input's manifest")
    counts: Counts


class Lineage(Contract):
    """``lineage.json``; ``missing`` are artifacts that could not be read, with the reason."""

    code_version: str
    steps: tuple[LineageStep, ...]
    missing: dict[str, str] = Field(default_factory=dict, description="URI → reason")

    @property
    def complete(self) -> bool:
        """Whether every way ends at a raw artifact."""
        return not self.missing and any(step.kind == "raw" for step in self.steps)

    def models(self) -> dict[str, str]:
        """Role → revision, over all steps."""
        return {role: rev for step in self.steps for role, rev in sorted(step.models.items())}


class DatasetItem(Contract):
    """One image that was trained on or validated with."""

    sha256: str = Field(description="Of the original bytes")
    file_name: str
    file_sha256: str = Field(description="Of the file in the dataset")
    source: str
    licence: str
    evidence: str = Field(description="Where the licence was read; empty: not kept")


class DatasetManifest(Contract):
    """``dataset.manifest.json``."""

    uri: str
    sha256: str = Field(description="Of the dataset artifact's manifest")
    licences: dict[str, int] = Field(description="Licence → images")
    items: tuple[DatasetItem, ...]


def trace(
    store: ArtifactStore, roots: Sequence[LocalArtifact], code_version: str
) -> tuple[Lineage, dict[str, Manifest]]:
    """Follow the inputs of every artifact; returns the manifests by their sha256, too.

    An artifact that was removed since, or lies in another store, is named as missing.

    Raises:
        ServiceUnavailable: the store did not answer.
    """
    found = {root.sha256: (root.uri, root.manifest) for root in roots}
    missing: dict[str, str] = {}
    waiting = deque(entry for root in roots for entry in root.manifest.inputs)
    while waiting:
        entry = waiting.popleft()
        if entry.sha256 in found or entry.manifest_uri in missing:
            continue
        try:
            manifest = store.read_manifest(_pinned(entry))
        except (ArtifactError, SpecError) as err:
            log.warning("lineage: %s", err)
            missing[entry.manifest_uri] = str(err)
            continue
        found[entry.sha256] = (entry.manifest_uri, manifest)
        waiting.extend(manifest.inputs)
    steps = tuple(_step(uri, sha256, manifest) for sha256, (uri, manifest) in found.items())
    lineage = Lineage(code_version=code_version, steps=steps, missing=missing)
    return lineage, {sha256: manifest for sha256, (_, manifest) in found.items()}


def dataset_manifest(
    store: ArtifactStore, uri: str, sha256: str, manifests: dict[str, Manifest]
) -> DatasetManifest | None:
    """List a dataset's images; None where the dataset can't be read (the lineage names it).

    Args:
        store: holds the artifacts.
        uri: of the dataset's manifest.
        sha256: of it.
        manifests: of :func:`trace`.

    Raises:
        ArtifactError: its records are damaged.
    """
    dataset = manifests.get(sha256)
    if dataset is None:
        return None
    evidence = _evidence(store, dataset, manifests)
    files = {entry.path: entry.sha256 for entry in dataset.files}
    items = []
    for record in _records(store, dataset, DatasetRecord):
        # metadata.jsonl lies beside its images
        places = [f"{split}/{record.file_name}" for split in ("train", "validation")]
        place = next((path for path in places if path in files), None)
        if place is None:
            msg = f"dataset {uri} names {record.file_name} and doesn't hold it; label again"
            raise ArtifactError(msg)
        items.append(
            DatasetItem(
                sha256=record.sha256,
                file_name=place,
                file_sha256=files[place],
                source=record.source,
                licence=record.licence,
                evidence=evidence.get(record.sha256, ""),
            )
        )
    licences = Counter(item.licence for item in items)
    return DatasetManifest(
        uri=uri, sha256=sha256, licences=dict(sorted(licences.items())), items=tuple(items)
    )


def _evidence(
    store: ArtifactStore, dataset: Manifest, manifests: dict[str, Manifest]
) -> dict[str, str]:
    """Original sha256 → where its licence was read, from the clean artifact."""
    clean = next((entry for entry in dataset.inputs if entry.name == "clean"), None)
    manifest = manifests.get(clean.sha256) if clean else None
    if manifest is None:
        return {}
    return {r.sha256: r.licence_evidence for r in _records(store, manifest, CleanRecord)}


def _records(store: ArtifactStore, manifest: Manifest, record: type[R]) -> Iterator[R]:
    for data in records_of(store, manifest):
        try:
            yield record.model_validate(data)
        except ValidationError as err:
            msg = f"{manifest.kind} {manifest.key}: a record can't be read; make it anew"
            raise ArtifactError(msg) from err


def _pinned(entry: InputEntry) -> str:
    return f"{entry.manifest_uri.partition('#')[0]}#sha256={entry.sha256}"


def _step(uri: str, sha256: str, manifest: Manifest) -> LineageStep:
    return LineageStep(
        kind=manifest.kind,
        uri=uri,
        sha256=sha256,
        stage=manifest.stage,
        stage_version=manifest.stage_version,
        code_version=manifest.code_version,
        created_at=manifest.created_at,
        models=manifest.models,
        inputs={entry.name: entry.sha256 for entry in manifest.inputs},
        counts=manifest.counts,
    )
