"""Earlier weights of a training, kept so that evaluation can choose among them by pictures.

The validation loss picks ``lora.safetensors``; a loss says little about how pictures look, and
the longest trained weights are not always the best ones to draw with.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
MOST = 3
MAX_BYTES = 2 * 2**30  # of all snapshots; a large adapter on a large base gets fewer


class Snapshots:
    """Writes the averaged weights at even shares of a training's steps.

    Args:
        folder: where they lie until the training ends; survives a kill.
        steps: of the whole training.
        adapter_bytes: of one snapshot.
        save: writes the weights that the adapter has now, as those of a step, to a file.
    """

    def __init__(
        self, folder: Path, steps: int, adapter_bytes: int, save: Callable[[Path, int], None]
    ) -> None:
        self._folder, self._save = folder, save
        self.due = frozenset(snapshot_steps(steps, adapter_bytes))
        folder.mkdir(exist_ok=True)

    def resume(self, step: int) -> None:
        """Forget what lies after ``step``: those steps are trained again, or differently."""
        for file in self._folder.iterdir():
            if file not in self._files(step):
                file.unlink()

    def write(self, step: int) -> None:
        """Keep the weights that the adapter has now (atomic: a kill leaves none or all)."""
        self._save(self._folder / file_name(step), step)

    def publish(self, out: Path, step: int, kept: int) -> tuple[str, ...]:
        """Copy to the artifact ``out`` what was written up to ``step``, oldest first.

        Step ``kept`` is left out: ``lora.safetensors`` has those very weights.

        Returns:
            Their paths in the artifact.
        """
        files = [file for file in self._files(step) if file.name != file_name(kept)]
        if files:
            (out / FOLDER).mkdir()
        for file in files:
            shutil.copyfile(file, out / FOLDER / file.name)
        return tuple(f"{FOLDER}/{file.name}" for file in files)

    def _files(self, last: int) -> list[Path]:
        wanted = [self._folder / file_name(step) for step in sorted(self.due) if step <= last]
        return [file for file in wanted if file.exists()]


def snapshot_steps(steps: int, adapter_bytes: int) -> list[int]:
    """At most three steps, evenly between the first and the last, within ``MAX_BYTES``."""
    count = min(MOST, MAX_BYTES // max(1, adapter_bytes))
    shares = {round(steps * number / (count + 1)) for number in range(1, count + 1)}
    return sorted(shares - {0, steps})


def file_name(step: int) -> str:
    """``step-000080.safetensors``."""
    return f"step-{step:06d}.safetensors"
