"""``export URI --format kohya|webdataset --to DIR``: a dataset for another trainer.

``kohya`` writes ``DIR/<repeats>_<trigger> style/`` with a ``.txt`` beside each picture;
``webdataset`` writes tar shards. Hugging Face's ``load_dataset("imagefolder")`` reads the
artifact as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora_factory.contracts.settings import Settings
from lora_factory.errors import SpecError

HELP = "write a dataset in another trainer's form"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("uri", help="manifest URI of a dataset artifact")
    parser.add_argument("--format", choices=["kohya", "webdataset"], required=True)
    parser.add_argument("--to", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument(
        "--repeats", type=int, default=1, help="kohya: times a picture is seen an epoch"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Fetch, verify, write.

    Raises:
        SpecError: the URI is no dataset's, or the folder can't be written.
        ArtifactError: the dataset is missing or damaged.
    """
    from lora_factory.label.export import export
    from lora_factory.store.artifacts import open_store

    if not 1 <= args.repeats <= 1000:
        msg = f"--repeats is 1 to 1000, not {args.repeats}"
        raise SpecError(msg)
    store = open_store(settings)
    kind = store.read_manifest(args.uri).kind
    if kind != "dataset":
        msg = f"{args.uri} is an artifact of kind {kind}; give the URI of a dataset"
        raise SpecError(msg)
    found = export(store.fetch(args.uri).path, args.format, args.to, repeats=args.repeats)
    sys.stdout.write(f"{args.to}: {', '.join(f'{n} {split}' for split, n in found.items())}\n")
    return 0
