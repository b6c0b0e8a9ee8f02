"""One release of one base, as a container in a cloud serves it: a body in, an answer out.

Knows no HTTP: the Lambda handler and the small app of :mod:`lora_factory.serve.container` are
over it. There is no catalog and no key: the cloud says who may ask, and counts. What is drawn is
what the serving app draws: by the same engine, behind the same guards, with the same marks.
"""

from __future__ import annotations

import base64
import concurrent.futures
import functools
import hashlib
import logging
import os
import queue
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.cloud import DIGEST, NOTE, URI, WEIGHTS, ReleaseNote
from lora_factory.contracts.serving import Failure, GenerateRequest, GenerateResponse
from lora_factory.diffusion.base import GenerationRequest
from lora_factory.diffusion.families import load_base
from lora_factory.errors import ArtifactError, ConfigurationError, FactoryError, ServiceUnavailable
from lora_factory.guard.provenance.c2pa import Facts
from lora_factory.guard.provenance.marks import image_marker, marks_of
from lora_factory.models.loaders import limit_threads
from lora_factory.models.profiles import load_profile
from lora_factory.serve.engine import AdapterFile, Drawn, Engine, Settings
from lora_factory.serve.guards import load_guards
from lora_factory.store.artifacts import REFUSED
from lora_factory.store.buckets import open_bucket

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from PIL.Image import Image

    from lora_factory.contracts.settings import Settings as Deployment
    from lora_factory.diffusion.base import DiffusionBase
    from lora_factory.guard.provenance.marks import ImageMarker
    from lora_factory.models.profiles import BaseEntry

log = logging.getLogger(__name__)
LOADING = 600.0  # seconds that the base may take to load
MAX_BODY = 64 * 1024
Answer = tuple[int, Contract]


@dataclass(frozen=True)
class Fetched:
    """A release whose bytes are those that were evaluated."""

    note: ReleaseNote
    file: AdapterFile
    uri: str


class ReleaseServer:
    """Draws with one LoRA, or with its base alone.

    Args:
        fetched: the release.
        base: what its LoRA was trained for.
        engine: of that base; started here.
        marker: marks every picture.
    """

    def __init__(
        self, fetched: Fetched, base: BaseEntry, engine: Engine, marker: ImageMarker
    ) -> None:
        self.note, self.uri = fetched.note, fetched.uri
        self._file, self._base, self._marker = fetched.file, base, marker
        self.engine = engine
        engine.start()

    def answer(self, body: bytes, seconds: float) -> Answer:
        """Status and body for a GenerateRequest in JSON, within ``seconds``.

        200 with a picture; 404 another adapter, 413 and 422 what can't be drawn or is refused,
        429 too many wait, 503 not ready or too slow, 500 the release itself is at fault.
        """
        started = time.monotonic()
        request = self._parse(body)
        if not isinstance(request, GenerateRequest):
            return request
        try:
            return self._draw(request, started, seconds)
        except queue.Full:
            return 429, Failure(error="too many requests wait; try again later")
        except (ServiceUnavailable, concurrent.futures.TimeoutError) as err:
            return 503, Failure(error=str(err) or f"no picture within {seconds:.0f} s")
        except FactoryError as err:
            log.error("%s: %s", type(err).__name__, err)  # noqa: TRY400 - one line, no traceback
            return 500, Failure(error=str(err))

    def _parse(self, body: bytes) -> GenerateRequest | Answer:
        """The request, or why there is none that can be drawn here."""
        if len(body) > MAX_BODY:
            return 413, Failure(error=f"body: more than {MAX_BODY} bytes")
        try:
            request = GenerateRequest.model_validate_json(body)
        except ValidationError as err:
            first = err.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            return 422, Failure(error=f"{where}: {first['msg']}")
        if not self._has(request):
            return 404, Failure(error=f"no such adapter here, only {self.note.name}")
        return request

    def _has(self, request: GenerateRequest) -> bool:
        version = request.version is None or (
            request.adapter is not None and request.version == self.note.version
        )
        return request.adapter in {None, self.note.name} and version

    def _draw(self, request: GenerateRequest, started: float, seconds: float) -> Answer:
        self.engine.wait_ready(min(LOADING, seconds))
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        how = Settings(
            adapter=self._file if request.adapter else None,
            steps=request.steps or self._base.steps,
            guidance=request.guidance or self._base.guidance,
            strength=request.strength if request.adapter else 1.0,
        )
        deadline = started + seconds
        ticket = self.engine.draw(GenerationRequest(request.prompt, seed), how, deadline)
        try:
            drawn: Drawn = ticket.future.result(max(0.0, deadline - time.monotonic()))
        finally:
            ticket.abandon()
        if drawn.image is None:
            what = f"{drawn.refused}: refused by the content rules"
            return 422, Failure(error=what, rule=drawn.rule)
        return 200, self._marked(drawn.image, request, seed, time.monotonic() - started)

    def _marked(
        self, image: Image, request: GenerateRequest, seed: int, seconds: float
    ) -> GenerateResponse:
        note = self.note if request.adapter else None
        facts = Facts(
            base=self._base.name,
            base_revision=self._base.resolve_revision(),
            adapter=note.name if note else None,
            version=note.version if note else None,
            lora_sha256=note.sha256 if note else None,
        )
        return GenerateResponse(
            image=base64.b64encode(self._marker.mark_image(image, facts)).decode(),
            generation_id=str(uuid.uuid4()),
            adapter=facts.adapter,
            version=facts.version,
            seed=seed,
            seconds=round(seconds, 3),
            rating_token=None,  # ratings need a catalog
            marks=marks_of(image.size),
        )


def open_release(settings: Deployment, environ: Mapping[str, str] | None = None) -> ReleaseServer:
    """The release that the environment names.

    Raises:
        ConfigurationError: it names none.
        SpecError: the image holds no such base.
        ArtifactError: the release is not there, or its bytes are others.
        ServiceUnavailable: the bucket does not answer.
    """
    environ = os.environ if environ is None else environ
    uri, digest = environ.get(URI, ""), environ.get(DIGEST, "")
    if not uri or not digest:
        msg = f"{URI} and {DIGEST} must name the release to serve; the deployment sets them"
        raise ConfigurationError(msg)
    folder = settings.scratch.expanduser() / "release"
    fetched = fetch(uri, digest, folder, open_bucket(uri, settings.aws))
    profile = load_profile(fetched.note.profile, settings)
    entry = profile.base(fetched.note.base, "art")
    engine = Engine(
        functools.partial(_load, entry, settings), functools.partial(load_guards, profile, settings)
    )
    return ReleaseServer(fetched, entry, engine, image_marker(settings, folder / "provenance"))


def fetch(uri: str, digest: str, folder: Path, store: ObjectStore) -> Fetched:
    """Bring a release's note and weights to a local folder, and verify both.

    Raises:
        ArtifactError, ServiceUnavailable: as :func:`open_release`.
    """
    data = _get(store, uri, NOTE)
    if hashlib.sha256(data).hexdigest() != digest:
        msg = f"release {uri}: {NOTE} is not the one that was deployed; deploy it again"
        raise ArtifactError(msg)
    note = ReleaseNote.model_validate_json(data)
    weights = _get(store, uri, WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != note.sha256:
        msg = f"release {uri}: {WEIGHTS} is damaged; deploy it again"
        raise ArtifactError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{note.sha256}.safetensors"
    part = path.with_suffix(".part")
    part.write_bytes(weights)
    part.replace(path)
    return Fetched(note, AdapterFile(path, note.sha256), uri)


def _get(store: ObjectStore, uri: str, path: str) -> bytes:
    from obstore.exceptions import BaseError

    try:
        return bytes(store.get(path).bytes())
    except FileNotFoundError as err:
        msg = f"release {uri} has no {path}; deploy it again"
        raise ArtifactError(msg) from err
    except REFUSED as err:
        msg = f"release {uri} can't be read: access refused; give the service's role the right"
        raise ConfigurationError(msg) from err
    except (BaseError, OSError) as err:
        msg = f"release {uri}: no answer from its bucket; try again later"
        raise ServiceUnavailable(msg) from err


def _load(entry: BaseEntry, settings: Deployment) -> DiffusionBase:
    limit_threads(settings)  # torch counts threads for the thread that asks
    return load_base(entry)
