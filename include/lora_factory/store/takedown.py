"""Where an item is: every artifact that contains it, and every one made from those.

Raw, clean and dataset artifacts are searched record by record, since a stage may have dropped
the item; from there on an artifact has it by descent (``MADE_FROM``). One manifest and one chunk
of records are in memory at a time.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lora_factory.contracts.takedown import Find, ModelFind, Reach
from lora_factory.errors import ArtifactError

if TYPE_CHECKING:
    from lora_factory.contracts.manifest import Kind, Manifest
    from lora_factory.contracts.takedown import Holder
    from lora_factory.store.artifacts import ArtifactStore
    from lora_factory.store.catalog import Catalog

log = logging.getLogger(__name__)
RECORDS: Mapping[Holder, tuple[str, ...]] = {
    "raw": ("records.jsonl",),
    "clean": ("records.jsonl",),
    "dataset": ("train/metadata.jsonl", "validation/metadata.jsonl"),
}
MADE_FROM: Mapping[Holder, tuple[str, ...]] = {
    "lora": ("dataset", "parent"),
    "evaluation": ("lora", "dataset", "incumbent"),  # its pictures show training images, too
    "release": ("lora",),
}
"""Inputs through which a kind takes an item over. Not a plan, nor advice: they hold numbers."""
OPTIONAL = "validation/metadata.jsonl"
SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"/([a-z]+)/([0-9a-z]+)/manifest\.json$")


class Artifact(NamedTuple):
    """An artifact's name in any store."""

    kind: str
    key: str


def artifact_of(uri: str) -> Artifact | None:
    """Kind and key of a manifest URI."""
    found = _ADDRESS.search(uri.partition("#")[0])
    return Artifact(*found.groups()) if found else None


def find_reach(
    store: ArtifactStore,
    catalog: Catalog | None,
    item: str,
    check_stop: Callable[[], None] = lambda: None,
) -> Reach:
    """Search the store, and the catalog where there is one.

    Args:
        store: all its committed artifacts are searched.
        catalog: asked for models; None: they stay unknown.
        item: URL of an image or a page, or sha256 of an image's original bytes. A URL means
            every image that was ever found under it, wherever else the same bytes were found.
        check_stop: called for each artifact.
    """
    search = _Search(store, check_stop)
    images = {item} if SHA256.fullmatch(item) else search.images_of(item)
    finds = search.containing(images)
    finds += search.descendants({Artifact(find.kind, find.key) for find in finds})
    return Reach(
        item=item,
        images=tuple(sorted(images)),
        artifacts=tuple(finds),
        models=_models(catalog, finds) if catalog is not None else (),
        catalog=catalog is not None,
        unreadable=tuple(sorted(search.unreadable)),
    )


class _Search:
    """Walks through a store; what can't be read is kept in ``unreadable``."""

    def __init__(self, store: ArtifactStore, check_stop: Callable[[], None]) -> None:
        self._store, self._check_stop = store, check_stop
        self.unreadable: set[str] = set()

    def images_of(self, url: str) -> set[str]:
        """sha256 of the images found at a URL or on a page of that URL."""
        found: set[str] = set()
        # As it stands in a record, so that most lines need no parsing.
        needle = json.dumps(url)[1:-1].encode()
        for kind in RECORDS:
            for _, manifest in self._manifests(kind):
                for record in self._records(manifest, needle):
                    if url in {record.get("url"), record.get("page_url"), record.get("source")}:
                        found.add(str(record.get("sha256")))
        return found

    def containing(self, images: set[str]) -> list[Find]:
        """Artifacts whose records hold one of these images."""
        finds = []
        for kind in RECORDS if images else ():
            for uri, manifest in self._manifests(kind):
                here = {str(record.get("sha256")) for record in self._records(manifest, b"")}
                if here := here & images:
                    why = f"contains {len(here)} image{'s' * (len(here) > 1)}"
                    finds.append(Find(kind=kind, key=manifest.key, uri=uri, why=why))
        return finds

    def descendants(self, tainted: set[Artifact]) -> list[Find]:
        """Artifacts made from tainted ones, through any number of others."""
        finds: list[Find] = []
        for kind in MADE_FROM if tainted else ():
            waiting = list(self._children(kind))
            # A LoRA may go on from a LoRA: until nothing more is reached.
            while reached := [row for row in waiting if row.parents & tainted]:
                for row in reached:
                    tainted.add(Artifact(kind, row.key))
                    parent = min(row.parents & tainted)
                    why = f"made from {parent.kind} {parent.key}"
                    finds.append(Find(kind=kind, key=row.key, uri=row.uri, why=why))
                waiting = [row for row in waiting if row not in reached]
        return finds

    def _children(self, kind: Holder) -> Iterator[_Child]:
        for uri, manifest in self._manifests(kind):
            parents = (
                artifact_of(entry.manifest_uri)
                for entry in manifest.inputs
                if entry.name in MADE_FROM[kind]
            )
            yield _Child(uri, manifest.key, frozenset(p for p in parents if p is not None))

    def _manifests(self, kind: Kind) -> Iterator[tuple[str, Manifest]]:
        for uri in self._store.addresses(kind):
            self._check_stop()
            try:
                yield uri, self._store.read_manifest(uri)
            except ArtifactError as err:
                self._skip(uri, err)

    def _records(self, manifest: Manifest, needle: bytes) -> Iterator[dict[str, object]]:
        """Records whose line holds ``needle``."""
        try:
            yield from records_of(self._store, manifest, needle)
        except ArtifactError as err:
            self._skip(f"{self._store.url}/{manifest.kind}/{manifest.key}/manifest.json", err)

    def _skip(self, uri: str, err: ArtifactError) -> None:
        if uri not in self.unreadable:
            log.warning("not searched: %s", err)
        self.unreadable.add(uri)


class _Child(NamedTuple):
    uri: str
    key: str
    parents: frozenset[Artifact]


def records_of(
    store: ArtifactStore, manifest: Manifest, needle: bytes = b""
) -> Iterator[dict[str, object]]:
    """The records of a raw, clean or dataset artifact, as they are written.

    Raises:
        ArtifactError: they are missing, damaged, or no JSON objects.
    """
    known = {entry.path for entry in manifest.files}
    for name in RECORDS[manifest.kind]:  # type: ignore[index]
        if name == OPTIONAL and name not in known:
            continue
        for line in store.lines(manifest, name):
            if not line.strip() or needle not in line:
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                msg = f"{manifest.kind} {manifest.key}: {name} holds a line that is no record"
                raise ArtifactError(msg)
            yield record


def _models(catalog: Catalog, finds: Sequence[Find]) -> tuple[ModelFind, ...]:
    """Models of the catalog whose LoRA or dataset is among the finds."""
    tainted = {Artifact(find.kind, find.key) for find in finds}
    live: dict[tuple[str, str], list[str]] = {}
    for deployment in catalog.deployments():
        live.setdefault((deployment.name, deployment.version), []).append(deployment.target)
    return tuple(
        ModelFind(
            name=model.name,
            version=model.version,
            state=model.state,
            lora=model.lora,
            live_on=tuple(live.get((model.name, model.version), ())),
        )
        for model in catalog.models()
        if {artifact_of(model.lora), artifact_of(model.dataset or "")} & tainted
    )


def taken_down_with(store: ArtifactStore, catalog: Catalog, lora: Manifest) -> tuple[str, str]:
    """The item of a takedown that a LoRA falls under, and the artifact it is in; or two empties.

    The LoRA may be marked itself, or what it was made from. Datasets are searched for items
    taken down since, so that a LoRA trained from an older dataset, or while the mark was being
    made, is found too.

    Raises:
        ArtifactError: something it was made from is gone or damaged.
    """
    waiting, seen = [lora] if catalog.takedowns() else [], set[str]()
    while waiting:
        manifest = waiting.pop()
        where = f"{manifest.kind} {manifest.key}"
        if marked := catalog.takedown_of(manifest.kind, manifest.key):
            return marked.item, where
        if manifest.kind == "dataset":
            names = (
                str(record.get(field))
                for record in records_of(store, manifest)
                for field in ("sha256", "source")
            )
            if found := catalog.taken_down(names):
                return min(found.values()), where
            continue
        for entry in manifest.inputs:
            if entry.name in MADE_FROM["lora"] and entry.manifest_uri not in seen:
                seen.add(entry.manifest_uri)
                waiting.append(store.read_manifest(entry.manifest_uri))
    return "", ""
