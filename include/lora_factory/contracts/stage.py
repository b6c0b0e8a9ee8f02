"""What a stage is to the runner, and what the runner is to a stage."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from lora_factory.contracts.base import StageReport, StageSpec
from lora_factory.contracts.evaluation import Advice
from lora_factory.contracts.manifest import Kind, Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.errors import ArtifactError, Interrupted


@dataclass(frozen=True)
class LocalArtifact:
    """A committed artifact whose files were verified and lie in a local, read-only folder."""

    path: Path
    manifest: Manifest
    uri: str
    sha256: str


@dataclass(frozen=True)
class StageContext:
    """What a stage may touch.

    ``inputs`` has one entry for each of the spec's input fields that is not None.
    ``out`` is the folder the stage fills; whatever lies in it when ``run`` returns is the
    artifact. ``scratch`` survives a kill (same folder for the same artifact key), so a
    stage keeps there what a retry goes on from. ``stop`` is set by SIGTERM: the stage then
    has 4 seconds to write what it needs and must raise :class:`Interrupted`.
    """

    inputs: Mapping[str, LocalArtifact]
    out: Path
    scratch: Path
    settings: Settings
    stop: threading.Event = field(default_factory=threading.Event)

    def check_stop(self) -> None:
        """Raise :class:`Interrupted` when the process was asked to stop."""
        if self.stop.is_set():
            msg = "asked to stop; progress is kept, run the stage again to go on"
            raise Interrupted(msg)


def read_advice(ctx: StageContext) -> Advice:
    """``advice.json`` of the evaluation before (input ``advice``), or no advice.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    if "advice" not in ctx.inputs:
        return Advice()
    file = ctx.inputs["advice"].path / "advice.json"
    try:
        return Advice.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as err:
        msg = f"advice {file} can't be read; evaluate the LoRA again"
        raise ArtifactError(msg) from err


class StageModule(Protocol):
    """What ``lora_factory.<stage>.stage`` offers the runner.

    A stage whose result depends on more of the deployment than models (an index of protected
    works, takedowns) also offers ``conditions(inputs, settings) -> dict[str, str]``: names and
    revisions that enter the artifact key and stand in the manifest beside the models'. One that
    worked on something shared offers ``finish(spec, inputs, settings)``: called once its artifact
    is committed (or was found), it lets go of what nobody needs any more.
    """

    KIND: Kind
    VERSION: int
    SPEC: type[StageSpec]

    @staticmethod
    def roles(spec: Any) -> tuple[str, ...]:
        """Model roles whose revisions enter the artifact key (``base:<domain>`` for a base)."""

    @staticmethod
    def run(spec: Any, ctx: StageContext) -> StageReport:
        """Fill ``ctx.out`` and report."""
