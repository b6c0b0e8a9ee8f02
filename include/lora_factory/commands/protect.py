"""Make an index of protected works that no picture of this deployment may repeat.

The folder's images (with all below it) are the works. The rules' cuts are calibrated on the
works against each other and on the originals: images of the same sort that copy none of them.
Point LORA_FACTORY_PROTECTED at the index; LORA_FACTORY_PROTECTED_POLICY is block or flag.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.settings import Settings
from lora_factory.guard.protected import ProtectedIndex

log = logging.getLogger(__name__)
HELP = "index of protected works"
NAMED = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="images to protect")
    parser.add_argument("--out", type=Path, required=True, help="folder of the index")
    parser.add_argument("--originals", type=Path, help="images that copy none of the works")
    parser.add_argument("--profile", default="embedded", help="profile whose scorer will look")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Make the index and say what is in it.

    Raises:
        DataError: no usable image, or too few originals.
        SpecError: no such profile, or the index can't be written there.
        ModelError: the scorer is missing or damaged.
    """
    from lora_factory.guard.indexing import build_index, files_of
    from lora_factory.guard.protected import SCORER
    from lora_factory.models.loaders import image_text_scorer, limit_threads
    from lora_factory.models.profiles import load_profile

    profile = load_profile(args.profile, settings)
    folders = [args.folder] + ([args.originals] if args.originals else [])
    progress = Progress("protect", sum(len(files_of(f)) for f in folders), "files")
    limit_threads(settings)
    index = build_index(
        args.folder,
        args.originals,
        image_text_scorer(profile),
        profile.role(SCORER).resolve_revision(),
        on_image=progress.advance,
    )
    index.save(args.out)
    sys.stdout.write(summary(index, args.out))
    return 0


def summary(index: ProtectedIndex, folder: Path) -> str:
    """What a person should know of a new index."""
    info = index.info
    lines = [f"{len(info.works)} protected works in {folder}"]
    if info.skipped:
        reasons = Counter(one.reason for one in info.skipped)
        lines.append("left out: " + ", ".join(f"{r} {n}" for r, n in sorted(reasons.items())))
        lines += [f"  {one.reason}: {one.name!r}" for one in info.skipped[:NAMED]]
        if len(info.skipped) > NAMED:
            lines.append(f"  and {len(info.skipped) - NAMED} more, named in {folder}/works.json")
    lines.append(
        f"calibrated on {info.calibrated_on} originals ({info.twins} more repeat a work): cosine "
        f"≥ {info.cosine:.3f}, hash ≤ {info.bits} of 64 bits; up to {index.cuts.chance:.1%} of "
        "originals may be taken for copies"
    )
    lines.append(
        f"the plain rule (cosine > 0.9) takes {info.plain_on_originals:.0%} of these originals "
        "for copies: it is reported, and decides nothing"
    )
    return "\n".join(lines) + "\n"
