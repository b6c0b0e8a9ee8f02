"""``python -m lora_factory.train.follower job.json``: one more process of a training.

See :mod:`lora_factory.train.launch`. It writes nothing but what it encodes into the cache.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from lora_factory.contracts.manifest import Manifest
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import TrainSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.errors import FactoryError
from lora_factory.train.stage import follow

log = logging.getLogger("lora_factory")


def main(argv: list[str]) -> int:
    """Do a share of the training that ``argv[0]`` describes; the exit status."""
    rank = os.environ.get("RANK", "?")
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format=f"%(levelname)s %(name)s: process {rank}: %(message)s",
    )
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first process says when to stop
    job: dict[str, Any] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    inputs = {
        name: LocalArtifact(
            Path(each["path"]),
            Manifest.model_validate(each["manifest"]),
            each["uri"],
            each["sha256"],
        )
        for name, each in job["inputs"].items()
    }
    scratch = Path(job["scratch"])
    settings = Settings.model_validate(job["settings"])
    try:
        follow(
            TrainSpec.model_validate(job["spec"]), StageContext(inputs, scratch, scratch, settings)
        )
    except FactoryError as err:
        log.error("%s: %s", type(err).__name__, err)  # noqa: TRY400 - one line, no traceback
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)
