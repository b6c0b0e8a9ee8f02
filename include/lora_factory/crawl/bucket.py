"""Source ``bucket``: a user's own images in an object store, with captions beside them.

The operator offers buckets by name, ``LORA_FACTORY_BUCKETS=name=s3://bucket/prefix,…`` (also
``gs://``, ``az://``, ``file://``); a run's conf only names one. Credentials are the artifact
store's: boto3's chain for S3, the environment for the others. Through ``obstore``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
)

from lora_factory.contracts.specs import CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.folder import FolderShelf
from lora_factory.crawl.images import Dropped
from lora_factory.crawl.own import Shelf, crawl_shelf
from lora_factory.crawl.report import CrawlReport
from lora_factory.errors import ConfigurationError, ServiceUnavailable, SpecError
from lora_factory.store.artifacts import REFUSED, open_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

VARIABLE = "LORA_FACTORY_BUCKETS"
PIECE = 1 << 20
LISTED = 1000
"""Objects of one answer to a listing."""
GONE = (FileNotFoundError, NotFoundError)
STATUS = re.compile(r"status code: (\d{3})")


def crawl_bucket(spec: CrawlSpec, ctx: StageContext) -> CrawlReport:
    """Read every image in the bucket.

    Raises:
        SpecError: the deployment offers no bucket of that name, or ``licences`` lacks "own".
        ConfigurationError: the bucket doesn't exist or refuses access.
        ServiceUnavailable: it did not answer.
        DataError: it holds no usable image.
        Interrupted: asked to stop.
    """
    buckets = ctx.settings.buckets
    if spec.bucket not in buckets:
        offered = ", ".join(sorted(buckets)) or f"none; set {VARIABLE}=name=s3://bucket/prefix"
        msg = f"unknown bucket {spec.bucket!r}; the deployment offers: {offered}"
        raise SpecError(msg)
    return crawl_shelf(spec, ctx, open_bucket(spec.bucket, buckets[spec.bucket]))


def open_bucket(name: str, url: str) -> Shelf:
    """The bucket at a URL.

    Raises:
        ConfigurationError: the URL can't be used.
        DataError: a ``file://`` folder can't be read.
    """
    if url.startswith("file://"):
        root = Path(url2pathname(urlsplit(url).path))
        return FolderShelf("bucket", name, root, VARIABLE)
    try:
        return BucketShelf(name, open_objects(url, None))
    except ConfigurationError as err:  # which speaks of the artifact store
        msg = f"bucket {name!r} can't be opened: {err.__cause__ or err}; correct {VARIABLE}"
        raise ConfigurationError(msg.splitlines()[0]) from err


class BucketShelf:
    """Objects below a prefix; those with a hidden part in their path don't count."""

    kind = "bucket"
    ahead = 16  # what a store takes to answer is most of an image's time

    def __init__(self, name: str, store: ObjectStore) -> None:
        self.name, self._store = name, store

    def files(self) -> Iterator[tuple[str, int]]:
        """See :class:`~lora_factory.crawl.own.Shelf`.

        Raises:
            ConfigurationError: the bucket doesn't exist or refuses access.
            ServiceUnavailable: it did not answer.
        """
        with bucket_errors(self.name):
            for batch in obstore.list(self._store, chunk_size=LISTED):
                for found in batch:
                    path = found["path"]
                    if not any(part.startswith(".") for part in path.split(posixpath.sep)):
                        yield path, found["size"]

    def stream(self, path: str) -> Iterator[bytes]:
        """See :class:`~lora_factory.crawl.own.Shelf`."""
        with bucket_errors(self.name):
            try:
                for piece in obstore.get(self._store, path).stream(min_chunk_size=PIECE):
                    yield bytes(piece)
            except GONE as err:
                raise Dropped(reason="unreadable", detail="gone since it was listed") from err
            except REFUSED as err:
                raise Dropped(reason="unreadable", detail="access refused") from err


@contextmanager
def bucket_errors(name: str) -> Iterator[None]:
    """Turn the object store's exceptions into the factory's."""
    try:
        yield
    except GONE as err:
        msg = f"bucket {name!r} does not exist; correct {VARIABLE}"
        raise ConfigurationError(msg) from err
    except REFUSED as err:
        msg = f"bucket {name!r} refuses access; correct its credentials"
        raise ConfigurationError(msg) from err
    except (BaseError, OSError) as err:
        raise _of_answer(name, err) from err


def _of_answer(name: str, err: Exception) -> Exception:
    """Listings fail with a generic error: its words alone tell the status."""
    found = STATUS.search(str(err))
    status = found[1] if found is not None else ""
    if status == "404":
        return ConfigurationError(f"bucket {name!r} does not exist; correct {VARIABLE}")
    if status in {"401", "403"}:
        return ConfigurationError(f"bucket {name!r} refuses access; correct its credentials")
    # Some stores take signatures in the URL.
    words = re.sub(r"\?\S+", "?…", str(err).splitlines()[0])
    return ServiceUnavailable(f"bucket {name!r} did not answer: {words}; try again")
