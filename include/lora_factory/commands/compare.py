"""Compare two LoRAs of one base on the same prompts and seeds.

A and B are manifest URIs of lora artifacts, as a run's result tells them; ``#FILE`` after one
picks a checkpoint inside it (``#checkpoints/step-000080.safetensors``). Writes report.json,
compare.html and compare.png.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import EvaluateSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.errors import SpecError

if TYPE_CHECKING:
    from lora_factory.contracts.manifest import Manifest
    from lora_factory.store.artifacts import ArtifactStore

log = logging.getLogger(__name__)
HELP = "two LoRAs on the same prompts and seeds"
LORA_FILE = "lora.safetensors"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    fields = EvaluateSpec.model_fields
    parser.add_argument("a", help="manifest URI of a lora artifact, #checkpoint file optional")
    parser.add_argument("b", help="the other one")
    parser.add_argument("--dataset", required=True, help="manifest URI: prompts and real images")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    for name in ("profile", "prompts", "seeds", "steps", "guidance", "seed"):
        kind = type(fields[name].default)
        parser.add_argument(f"--{name}", type=kind, default=fields[name].default)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Compare, and say which is better.

    Raises:
        SpecError: a URI, checkpoint or number can't be used, or the bases differ.
        ArtifactError: an artifact is missing or damaged.
        ModelError, DataError: see :func:`lora_factory.evaluate.compare.compare`.
    """
    from lora_factory.evaluate.compare import compare
    from lora_factory.store.artifacts import open_store, remove_tree

    spec = _spec(args)
    store = open_store(settings)
    (a, first), (b, second) = (pick(store, uri) for uri in (args.a, args.b))
    loras, dataset = (store.fetch(a), store.fetch(b)), store.fetch(args.dataset)
    if dataset.manifest.kind != "dataset":
        msg = f"--dataset {args.dataset} is a {dataset.manifest.kind}; give a dataset's manifest"
        raise SpecError(msg)
    args.out.mkdir(parents=True, exist_ok=True)
    work = settings.scratch.expanduser() / "work" / "compare" / sha256_json([a, b])[:24]
    work.mkdir(parents=True, exist_ok=True)
    inputs = {"a": loras[0], "b": loras[1], "dataset": dataset}
    context = StageContext(inputs, args.out, work, settings)
    report = compare(loras, (first, second), dataset, spec, context)
    remove_tree(work)
    sys.stdout.write(f"{report.words}\n{args.out / 'compare.html'}\n")
    return 0


def pick(store: ArtifactStore, address: str) -> tuple[str, str]:
    """``URI[#sha256=…][#FILE]`` → the artifact's URI and the file in it.

    Raises:
        SpecError: it is no LoRA's address, or the LoRA has no such file.
        ArtifactError: nothing is committed there.
    """
    parts = address.split("#")
    digests = [part for part in parts[1:] if part.startswith("sha256=")]
    files = [part for part in parts[1:] if not part.startswith("sha256=")]
    if len(digests) > 1 or len(files) > 1:
        msg = f"{address!r} names several files; write URI#FILE"
        raise SpecError(msg)
    uri = "#".join([parts[0], *digests])
    manifest = store.read_manifest(uri)
    file = files[0] if files else LORA_FILE
    known = _weights(manifest)
    if manifest.kind != "lora" or file not in known:
        what = f"a {manifest.kind}" if manifest.kind != "lora" else "a lora"
        msg = f"{parts[0]} is {what} without file {file!r}; it has: {', '.join(known) or 'none'}"
        raise SpecError(msg)
    return uri, file


def _weights(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.files if entry.path.endswith(".safetensors")]


def _spec(args: argparse.Namespace) -> EvaluateSpec:
    names = ("profile", "prompts", "seeds", "steps", "guidance", "seed", "dataset")
    values = {name: getattr(args, name) for name in names}
    try:
        # Nothing is chosen here, so all prompts are for reporting.
        return EvaluateSpec.model_validate({**values, "lora": args.a, "choosing": 0})
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        msg = f"--{first['loc'][0]}: {first['msg']}"
        raise SpecError(msg) from err
