"""Answers of an LLM on disk, shared between runs: nothing is asked, or paid, twice."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import ValidationError

from lora_factory.contracts.base import sha256_json

if TYPE_CHECKING:
    from lora_factory.label.answers import Answer

log = logging.getLogger(__name__)


class AnswerCache:
    """One small JSON file an answer; several processes may share the folder.

    Args:
        folder: of the deployment, made when needed.
        asked: what every question shares: model and prompt version.
        schema: what an answer must be. One that isn't is asked for anew.
    """

    def __init__(self, folder: Path, asked: tuple[str, ...], schema: type[Answer]) -> None:
        self._folder = folder / sha256_json(asked)[:16]
        self._schema = schema

    def get(self, image: str, question: str) -> Answer | None:
        """The answer to this question about the image with this sha256.

        A question of a model that sees need not have the page's words in it.
        """
        file = self._file(image, question)
        try:
            return self._schema.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            log.warning("cached answer %s is damaged; it is asked for again", file.name)
            return None

    def put(self, image: str, question: str, answer: Answer) -> None:
        """Keep an answer; a half-written one is never read."""
        file = self._file(image, question)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{uuid4().hex}.part")
        draft.write_text(json.dumps(answer.model_dump(mode="json")), encoding="utf-8")
        draft.replace(file)

    def _file(self, image: str, question: str) -> Path:
        key = sha256_json([image, question])
        return self._folder / key[:2] / f"{key}.json"
