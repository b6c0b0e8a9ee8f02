"""What a crawl keeps of its answers, so that a later one can ask whether they have changed."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any, Literal

from pydantic import Field

from lora_factory.contracts.base import Contract

FILE = "validators.jsonl"
KEPT_HEADERS = (
    "Content-Type", "X-Robots-Tag", "TDM-Reservation", "TDM-Policy", "Content-Usage",
    "Content-Signal", "Link",
)  # fmt: skip
MAX_HEADER = 1000  # characters


class Visit(Contract):
    """An answer that may be asked for again conditionally: one line of ``validators.jsonl``."""

    what: Literal["page", "image"]
    url: str = Field(description="The one that answered, after redirects")
    etag: str = ""
    last_modified: str = ""
    headers: tuple[tuple[str, str], ...] = Field((), description="Those that say what it is")
    sha256: str = Field(description="Of its bytes")
    file_name: str = Field("", description="An image's, in the artifact")
    body: str = Field("", description="A page's bytes: zlib, base64")


def visit_of(response: Any, what: Literal["page", "image"], file_name: str = "") -> Visit | None:
    """What is to be kept of an answer; None where it can't be asked for conditionally."""
    etag, modified = (_header(response, name) for name in ("ETag", "Last-Modified"))
    if not etag and not modified:
        return None
    body = base64.b64encode(zlib.compress(response.body, 6)).decode() if what == "page" else ""
    return Visit(
        what=what,
        url=response.url,
        etag=etag,
        last_modified=modified,
        headers=tuple(
            (name, value.decode("latin-1")[:MAX_HEADER])
            for name in KEPT_HEADERS
            for value in response.headers.getlist(name)[:20]
        ),
        sha256=hashlib.sha256(response.body).hexdigest(),
        file_name=file_name,
        body=body,
    )


def _header(response: Any, name: str) -> str:
    value: str = response.headers.get(name, b"").decode("latin-1").strip()
    return value if value.isprintable() and len(value) <= MAX_HEADER else ""
