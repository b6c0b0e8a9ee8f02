"""Checks an image, a release, or any artifact, and says what was checked.

Nothing passes by default: what carries no mark, no signature or no manifest has failed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from lora_factory.contracts.manifest import FileEntry, Manifest
from lora_factory.guard.provenance.c2pa import Credentials, read_credentials
from lora_factory.guard.provenance.checks import Check
from lora_factory.guard.provenance.signing import verify_folder
from lora_factory.guard.provenance.watermark import MIN_SIDE, Watermark
from lora_factory.imaging.decode import ImageRejected, decode
from lora_factory.store.artifacts import MANIFEST

SMALLEST = 64  # pixels; a reduced picture may still show the watermark, a smaller one can't
LISTED = 5


def verify_image(data: bytes, anchors: str | None, watermark: Watermark) -> tuple[Check, ...]:
    """Check the manifest in an image and look for the watermark in its pixels.

    Args:
        data: the image file's bytes.
        anchors: PEM certificates whose signers are trusted; None: the signer stays unknown.
        watermark: detector, under the key that the image was marked with.
    """
    credentials = read_credentials(data, anchors)
    checks = [] if credentials is None else [*_judge(credentials, trusting=anchors is not None)]
    if credentials is None:
        detail = "none: never marked, or stripped since"
        checks.append(Check("C2PA manifest", passed=False, detail=detail))
    claimed = str(credentials.generation.get("watermark", "")) if credentials else ""
    return (*checks, _watermark(data, claimed, watermark))


def verify_release(folder: Path, public_pem: bytes) -> tuple[Check, ...]:
    """Check that every file of a release is as the holder of a key signed it."""
    return (verify_folder(folder, public_pem),)


def verify_artifact(folder: Path) -> tuple[Manifest | None, tuple[Check, ...]]:
    """Check every file of an artifact against its ``manifest.json``.

    Args:
        folder: ``<kind>/<key>`` of a store, as it lies on disk.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(data)
    except (OSError, ValidationError) as err:
        detail = f"{folder / MANIFEST} can't be read: {str(err).splitlines()[0]}"
        return None, (Check("manifest", passed=False, detail=detail),)
    sha256 = hashlib.sha256(data).hexdigest()
    detail = f"{manifest.kind} {manifest.key} by {manifest.stage}, sha256 {sha256}"
    return manifest, (
        Check("manifest", passed=None, detail=detail),
        _files(folder / manifest.attempt, manifest),
    )


def _judge(found: Credentials, *, trusting: bool) -> Iterator[Check]:
    if found.state not in {"Valid", "Trusted"}:
        detail = f"invalid: {', '.join(found.failures) or 'can not be read'}"
        yield Check("C2PA manifest", passed=False, detail=detail)
        return
    yield Check("C2PA manifest", passed=True, detail="valid: nothing was changed since signing")
    if found.state == "Trusted":
        yield Check("signer", passed=True, detail=f"trusted: {found.signer}")
    elif trusting:
        detail = f"{found.signer!r} is not issued by a given trust anchor"
        yield Check("signer", passed=False, detail=detail)
    else:
        detail = f"{found.signer!r}, untrusted: no trust anchor given (--trust)"
        yield Check("signer", passed=None, detail=detail)
    what = "made by a trained model" if found.generated else "does not say that a model made it"
    yield Check("source type", passed=found.generated, detail=what)
    if found.generation:
        told = ", ".join(f"{key} {value}" for key, value in found.generation.items())
        yield Check("made with", passed=None, detail=told)


def _watermark(data: bytes, claimed: str, watermark: Watermark) -> Check:
    """Never decides by itself: who lacks the key finds nothing, and a found one can be copied."""
    name = "watermark"
    try:
        image = decode(data)
    except ImageRejected as err:
        return Check(name, passed=False, detail=f"no picture: {err}")
    if min(image.size) < SMALLEST or (not claimed and max(image.size) < MIN_SIDE // 2):
        return Check(name, passed=None, detail=f"none: pictures below {MIN_SIDE} pixels carry none")
    found = watermark.detect(image)
    if claimed and found.present and found.ident != claimed:
        detail = f"{found.detail}; the manifest names {claimed}"
        return Check(name, passed=False, detail=detail)
    if found.present:
        return Check(name, passed=True, detail=found.detail)
    hint = "the manifest names one, is the key the right one? " if claimed else ""
    return Check(name, passed=None, detail=f"not found: {hint}{found.detail}")


def _files(folder: Path, manifest: Manifest) -> Check:
    wrong = [
        f"{entry.path} {problem}"
        for entry in manifest.files
        if (problem := _problem(folder, entry)) is not None
    ]
    named = {entry.path for entry in manifest.files}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wrong += [f"{path} is not in the manifest" for path in sorted(there - named)]
    if not wrong and named:
        return Check("files", passed=True, detail=f"all {len(named)} as the manifest names them")
    more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
    return Check("files", passed=False, detail=", ".join(wrong[:LISTED]) + more or "none named")


def _problem(folder: Path, entry: FileEntry) -> str | None:
    path = folder / entry.path
    if not path.resolve().is_relative_to(folder.resolve()):
        return "points outside of the artifact"
    if not path.is_file():
        return "is missing"
    with path.open("rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == entry.sha256
    return None if same else "was changed"


def licences_of(folder: Path, manifest: Manifest) -> Check:
    """What licences the images of a dataset have, for people."""
    from lora_factory.contracts.records import DatasetRecord, read_jsonl

    counts: Counter[str] = Counter()
    for entry in manifest.files:
        if entry.path.endswith("metadata.jsonl"):
            records = read_jsonl(folder / manifest.attempt / entry.path, DatasetRecord)
            counts.update(record.licence for record in records)
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return Check("licences", passed=None, detail=told or "no images")
