"""Writes the dataset: an imagefolder, ``dataset.json``, ``audit.parquet``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_factory.contracts.progress import track
from lora_factory.contracts.records import (
    MEASURES_FILE,
    AuditRecord,
    CleanRecord,
    DatasetInfo,
    DatasetRecord,
    read_jsonl,
    write_jsonl,
)
from lora_factory.errors import ArtifactError

if TYPE_CHECKING:
    from lora_factory.contracts.stage import StageContext


def write_images(
    split: str,
    records: Sequence[DatasetRecord],
    sources: Sequence[CleanRecord],
    clean: Path,
    ctx: StageContext,
) -> None:
    """Copy the clean images of one split as they are and write its ``metadata.jsonl``.

    Raises:
        Interrupted: asked to stop.
    """
    folder = ctx.out / split
    folder.mkdir(parents=True, exist_ok=True)
    pairs = zip(records, sources, strict=True)
    for record, source in track(pairs, f"write {split}", len(records), "images"):
        ctx.check_stop()
        shutil.copyfile(clean / source.file_name, folder / record.file_name)
    write_jsonl(folder / "metadata.jsonl", records)


def carry_measures(clean: Path, out: Path) -> None:
    """Hand on what sanitize measured, for the dataset's next increment."""
    if (clean / MEASURES_FILE).is_file():
        shutil.copyfile(clean / MEASURES_FILE, out / MEASURES_FILE)


def write_info(out: Path, info: DatasetInfo) -> None:
    """Write ``dataset.json``."""
    (out / "dataset.json").write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_audit(clean: Path) -> list[AuditRecord]:
    """Verdicts of the stages before.

    Raises:
        ArtifactError: ``audit.jsonl`` is missing or damaged.
    """
    file = clean / "audit.jsonl"
    try:
        return list(read_jsonl(file, AuditRecord))
    except (OSError, ValueError) as err:
        msg = f"audit {file} can't be read; sanitize again"
        raise ArtifactError(msg) from err


def write_audit(out: Path, records: Sequence[AuditRecord]) -> None:
    """Write ``audit.parquet``: one row a verdict, columns of :class:`AuditRecord`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: [utf8(getattr(record, name)) for record in records]
        for name in AuditRecord.model_fields
    }
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), out / "audit.parquet", compression="zstd")


def utf8(text: str) -> str:
    """Hostile text without its lone surrogates, which Parquet and Arrow's JSON refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")
