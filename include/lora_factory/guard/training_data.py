"""What a LoRA was trained on, from the records of its dataset and the manifests before it.

Everything here is counted from files of the artifacts or read from manifests whose hashes the
next one names; what can't be read is left unknown, and said so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lora_factory.contracts.ethics import TrainingDataSummary
from lora_factory.contracts.records import DatasetRecord, read_jsonl
from lora_factory.errors import FactoryError

if TYPE_CHECKING:
    from pathlib import Path

    from lora_factory.contracts.manifest import InputEntry, Manifest
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import LocalArtifact

log = logging.getLogger(__name__)
UNKNOWN = "unknown"
OPT_OUTS = frozenset({"opt_out", "robots_disallowed"})
"""Reason codes of the crawl for what its owner reserved."""
MEASURES = (
    (1, "robots.txt (RFC 9309), unreachable counts as closed"),
    (1, "X-Robots-Tag and meta robots: noai, noimageai, noml"),
    (2, "Content-Signal, Content-Usage, TDMRep, RSL: a reservation binds"),
)
"""Version of the crawl since which it does what; crawl/optout.py, crawl/signals.py."""
ALLOW_LIST = "licence allow-list; an unknown licence is kept out"
MOST_NAMED = 50
CHAIN = {"dataset": "clean", "clean": "raw"}
"""Kind → name of the input it was made from."""


@dataclass(frozen=True)
class Lineage:
    """Manifests behind a dataset, nearest first; ``broken`` says where the chain ends early."""

    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    uris: tuple[str, ...] = ()
    broken: str = ""


@dataclass(frozen=True)
class Drops:
    """``audit.parquet``, counted."""

    reasons: Counter[str]
    crawled: int
    """Verdicts of the crawl among them."""
    opt_outs: int


def read_lineage(dataset: LocalArtifact, settings: Settings) -> Lineage:
    """The manifests the dataset was made from, from the deployment's store, hashes verified."""
    found: dict[str, Manifest] = {}
    uris: list[str] = []
    manifest = dataset.manifest
    while (name := CHAIN.get(manifest.kind)) is not None:
        entry = _input(manifest, name)
        if entry is None:
            return Lineage(found, tuple(uris), f"{manifest.kind} names no {name}")
        try:
            manifest = _fetch(entry, settings)
        except FactoryError as err:
            log.warning("lineage of the dataset ends before %s: %s", name, err)
            return Lineage(found, tuple(uris), f"manifest of {name} can't be read here")
        found[name] = manifest
        uris.append(f"{entry.manifest_uri}#sha256={entry.sha256}")
    return Lineage(found, tuple(uris))


def summarise(dataset: LocalArtifact, lineage: Lineage) -> TrainingDataSummary:
    """Counts of the dataset's records, and what the crawl's manifest says of their gathering.

    A file that can't be read leaves its figures at zero, with a warning.
    """
    records = {part: read_records(dataset.path, part) for part in ("train", "validation")}
    every = [record for part in records.values() for record in part]
    drops = read_drops(dataset.path)
    raw = lineage.manifests.get("raw")
    spec = raw.spec if raw is not None else {}
    size = sum(
        entry.size
        for entry in dataset.manifest.files
        if entry.path.startswith(("train/", "validation/")) and not entry.path.endswith(".jsonl")
    )
    return TrainingDataSummary(
        images=len(every),
        train=len(records["train"]),
        validation=len(records["validation"]),
        megabytes=round(size / 1e6, 3),
        licences=_ranked(record.licence or UNKNOWN for record in every),
        domains=_ranked(host_of(record.source) for record in every),
        sources=_gathering(spec),
        topics=tuple(str(topic) for topic in spec.get("topics", ())),
        collected=str(spec.get("as_of", UNKNOWN)),
        opt_out_measures=() if raw is None else tuple(_measures(raw)),
        opt_outs_honoured=drops.opt_outs if drops else 0,
        dropped=dict(drops.reasons.most_common()) if drops else {},
        evidence=(dataset.uri, *lineage.uris),
    )


def read_records(folder: Path, part: str) -> list[DatasetRecord]:
    """Records of ``train`` or ``validation``; empty, with a warning, if they can't be read."""
    file = folder / part / "metadata.jsonl"
    if not file.is_file():
        return []
    try:
        return list(read_jsonl(file, DatasetRecord))
    except (OSError, ValueError) as err:  # pydantic's ValidationError is a ValueError
        log.warning("records of %s can't be read: %s", part, str(err).splitlines()[0])
        return []


def read_drops(folder: Path) -> Drops | None:
    """``audit.parquet`` counted; None where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / "audit.parquet", columns=["stage", "verdict", "reason"])
    except (OSError, pa.ArrowException) as err:
        log.warning("audit.parquet can't be read: %s", str(err).splitlines()[0])
        return None
    rows = table.to_pylist()
    gone = [row for row in rows if row["verdict"] == "dropped"]
    return Drops(
        reasons=Counter(f"{row['stage']}: {row['reason']}" for row in gone),
        crawled=sum(row["stage"] == "crawl" for row in rows),
        opt_outs=sum(row["reason"] in OPT_OUTS for row in gone),
    )


def host_of(source: str) -> str:
    """Host of a source's URL; ``local folder`` for files."""
    try:
        host = urlsplit(source).hostname
    except ValueError:
        return UNKNOWN
    return host or "local folder"


def _fetch(entry: InputEntry, settings: Settings) -> Manifest:
    from lora_factory.store.artifacts import open_store

    store = open_store(settings)
    return store.read_manifest(f"{entry.manifest_uri}#sha256={entry.sha256}")


def _input(manifest: Manifest, name: str) -> InputEntry | None:
    return next((entry for entry in manifest.inputs if entry.name == name), None)


def _ranked(items: Iterable[str]) -> dict[str, int]:
    """Counted, most first; at most ``MOST_NAMED`` by name. No lone surrogates of hostile text."""
    counts = Counter(item.encode("utf-8", "replace").decode()[:100] for item in items)
    named = dict(counts.most_common(MOST_NAMED))
    others = counts.total() - sum(named.values())
    return {**named, **({"others": others} if others else {})}


def _gathering(spec: Mapping[str, object]) -> str:
    """In words; a source that this doesn't know is named as the crawl names it."""
    source = str(spec.get("source", UNKNOWN))
    ways = {
        "web": "crawled from web pages, starting at the seeds",
        "urls": "fetched from the pages that were listed",
        "sitemap": "crawled from sites' own sitemaps",
        "openverse": "found through Openverse",
        "wikimedia": "found through Wikimedia Commons",
        "folder": "read from a folder of the operator's",
        "bucket": "read from a bucket of the operator's",
    }
    return ways.get(source, source)


def _measures(raw: Manifest) -> Iterator[str]:
    """Measures that applied: none is claimed for images that the crawl did not fetch itself."""
    if raw.spec.get("source") in {None, "folder", "bucket"}:
        return
    yield from (words for since, words in MEASURES if raw.stage_version >= since)
    if not raw.spec.get("allow_unknown_licence"):
        yield ALLOW_LIST
