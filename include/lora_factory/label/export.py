"""A dataset artifact in the forms other trainers read.

``kohya``: ``<repeats>_<trigger> style/<sha256>.png`` with a ``.txt`` of the same name (kohya's
sd-scripts, OneTrainer and ai-toolkit read it), validation beside it in ``validation/``.
``webdataset``: tar shards of ``<sha256>.png``, ``.txt`` and ``.json``, a folder a split.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from lora_factory.contracts.progress import track
from lora_factory.contracts.records import DatasetInfo, DatasetRecord, read_jsonl
from lora_factory.errors import ArtifactError, SpecError

Format = Literal["kohya", "webdataset"]
SHARD = 10_000
"""Pictures of a WebDataset shard."""
SPLITS = ("train", "validation")


def export(dataset: Path, kind: Format, target: Path, *, repeats: int = 1) -> dict[str, int]:
    """Write ``dataset`` (an artifact's folder) to ``target``; split → pictures.

    Raises:
        SpecError: ``target`` isn't empty or can't be written.
        ArtifactError: the dataset can't be read.
    """
    info = _info(dataset)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"{target} isn't an empty folder; choose another, or empty it"
        raise SpecError(msg)
    draft = target.with_name(f"{target.name}.part")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        found = {}
        for split in SPLITS:
            records = _records(dataset, split)
            if records and kind == "kohya":
                _kohya(dataset / split, records, draft, _folder(split, info, repeats))
            elif records:
                _webdataset(dataset / split, records, draft / split)
            found[split] = len(records)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except OSError as err:
        msg = f"{target} can't be written: {err.strerror or err}; choose another folder"
        raise SpecError(msg) from err
    return found


def _info(dataset: Path) -> DatasetInfo:
    try:
        return DatasetInfo.model_validate_json((dataset / "dataset.json").read_bytes())
    except (OSError, ValidationError) as err:
        msg = f"{dataset / 'dataset.json'} can't be read: {str(err).splitlines()[0]}; label again"
        raise ArtifactError(msg) from err


def _records(dataset: Path, split: str) -> list[DatasetRecord]:
    file = dataset / split / "metadata.jsonl"
    try:
        return list(read_jsonl(file, DatasetRecord)) if file.is_file() else []
    except (OSError, ValueError) as err:
        msg = f"{file} can't be read: {str(err).splitlines()[0]}; label again"
        raise ArtifactError(msg) from err


def _folder(split: str, info: DatasetInfo, repeats: int) -> str:
    """kohya reads repeats and class from a folder's name."""
    return f"{repeats}_{info.trigger} style" if split == "train" else "validation"


def _kohya(source: Path, records: Sequence[DatasetRecord], out: Path, name: str) -> None:
    folder = out / name
    folder.mkdir()
    for record in track(records, f"export {name}", len(records), "images"):
        file = _picture(source, record)
        shutil.copyfile(file, folder / file.name)
        (folder / file.name).with_suffix(".txt").write_bytes(_caption(record))


def _webdataset(source: Path, records: Sequence[DatasetRecord], out: Path) -> None:
    out.mkdir()
    for number, shard in enumerate(_shards(records)):
        with tarfile.open(out / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for record in track(shard, f"export {out.name} {number}", len(shard), "images"):
                file = _picture(source, record)
                key = record.sha256
                about = json.dumps(record.model_dump(mode="json")).encode()
                _add(tar, f"{key}{file.suffix}", file.read_bytes())
                _add(tar, f"{key}.txt", _caption(record))
                _add(tar, f"{key}.json", about)


def _shards(records: Sequence[DatasetRecord]) -> Iterator[Sequence[DatasetRecord]]:
    for start in range(0, len(records), SHARD):
        yield records[start : start + SHARD]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """No owner and no time: equal datasets give equal shards."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _picture(folder: Path, record: DatasetRecord) -> Path:
    """The record's file, which lies in its folder and nowhere else."""
    file = folder / record.file_name
    if record.file_name != Path(record.file_name).name or not file.is_file():
        msg = f"{folder} has no picture {record.file_name!r}; label again"
        raise ArtifactError(msg)
    return file


def _caption(record: DatasetRecord) -> bytes:
    return record.text.encode("utf-8", "replace")
