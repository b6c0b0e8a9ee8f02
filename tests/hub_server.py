"""A model hub on loopback: the paths, headers and errors of the real one, and faults on demand.

Small files are answered by the hub itself (ETag: git's id of the bytes), weights by a redirect
to a second server, the CDN (``X-Linked-Etag``: their sha256), which knows ranges.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".ckpt")


@functools.cache
def sha256(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


@functools.cache
def git_sha1(data: bytes) -> str:
    """git's object id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """A model repository: one commit, under a branch."""

    commit: str
    files: dict[str, bytes]
    branch: str = "main"
    licence: str = "mit"
    gated: bool = False

    @classmethod
    def of(cls, folder: Path, commit: str, **more: Any) -> Repo:
        """All files of a folder."""
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        return cls(commit, files, **more)


@dataclass(frozen=True)
class Seen:
    """A request as it arrived, and how many bytes were sent for it."""

    server: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int


@dataclass
class Faults:
    """What goes wrong; paths are of files in repositories."""

    cut: dict[str, int] = field(default_factory=dict)
    """The CDN breaks off after so many bytes of an answer, and is down from then on."""
    stall: dict[str, int] = field(default_factory=dict)
    """The CDN sends so many bytes of an answer, then waits for the fault to be cleared."""
    corrupt: set[str] = field(default_factory=set)
    """The CDN sends other bytes of the same length."""
    down: bool = False
    """The CDN answers 503."""
    no_ranges: bool = False
    status: int = 0
    """The hub answers this to everything."""


class Hub:
    """The two servers, what they serve and what they saw."""

    def __init__(self, repos: dict[str, Repo]) -> None:
        self.repos, self.faults, self.seen = repos, Faults(), list[Seen]()
        self.ending = False
        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, self))
            for handler in (_HubHandler, _CdnHandler)
        ]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)

    @contextmanager
    def running(self) -> Iterator[Hub]:
        """Serve until the block ends."""
        threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in self._servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.ending = True
            for server, thread in zip(self._servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()

    def downloads(self) -> list[Seen]:
        """Requests for the bytes of files."""
        return [
            s
            for s in self.seen
            if s.method == "GET" and ("/resolve/" in s.path or s.server == "cdn")
        ]

    def find(self, digest: str) -> tuple[str, bytes]:
        """Path and bytes of large-file storage."""
        for repo in self.repos.values():
            for path, data in repo.files.items():
                if path.endswith(LARGE) and sha256(data) == digest:
                    return path, data
        raise KeyError(digest)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server_name = ""

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        raise NotImplementedError

    def answer(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        upto: int = -1,
        stall: int = 0,
    ) -> None:
        """Send an answer; ``upto`` bytes of it, then break off, unless negative."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        sent = b"" if self.command == "HEAD" else body if upto < 0 else body[:upto]
        seen = Seen(
            self.server_name,
            self.command,
            urlsplit(self.path).path,
            self.headers.get("Range"),
            self.headers.get("Authorization"),
            len(sent),
        )
        self.hub.seen.append(seen)
        self.end_headers()
        if 0 < stall < len(sent):
            self.wfile.write(sent[:stall])
            while self.hub.faults.stall and not self.hub.ending:
                time.sleep(0.02)
            sent = sent[stall:]
        try:
            self.wfile.write(sent)
        except OSError:  # whoever asked was killed
            self.close_connection = True
            return
        self.close_connection = upto >= 0


class _HubHandler(_Handler):
    server_name = "hub"

    def do_GET(self) -> None:
        if self.hub.faults.status:
            self.answer(self.hub.faults.status)
            return
        path = urlsplit(self.path).path
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            found = self._repo(name, unquote(revision))
            if found is not None:
                self.answer(200, json.dumps(_info(name, found)).encode())
            return
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if (repo := self._repo(name, unquote(revision))) is not None:
            self._resolve(repo, unquote(file))

    def _repo(self, name: str, revision: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:  # the real one doesn't tell strangers apart from private models
            self.answer(401, headers={"X-Error-Code": "RepoNotFound"})
        elif repo.gated and self.headers.get("Authorization") is None:
            self.answer(403, headers={"X-Error-Code": "GatedRepo"})
        elif revision not in {repo.branch, repo.commit}:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def _resolve(self, repo: Repo, file: str) -> None:
        data = repo.files.get(file)
        headers = {"X-Repo-Commit": repo.commit}
        if data is None:
            self.answer(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        elif file.endswith(LARGE):
            digest = sha256(data)
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            place = {"Location": f"{self.hub.cdn}/{digest}?signature=secret"}
            self.answer(302, headers=headers | linked | place)
        else:
            self.answer(200, data, headers | {"ETag": f'"{git_sha1(data)}"'})


class _CdnHandler(_Handler):
    server_name = "cdn"

    def do_GET(self) -> None:
        faults = self.hub.faults
        if faults.down:
            self.answer(503)
            return
        file, data = self.hub.find(urlsplit(self.path).path.removeprefix("/"))
        if file in faults.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, asked = 0, self.headers.get("Range")
        if asked is not None and not faults.no_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        upto = faults.cut.pop(file, -1)
        if upto >= 0:
            faults.down = True
        headers = {"ETag": '"of-the-cdn"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.answer(206 if start else 200, data[start:], headers, upto, faults.stall.get(file, 0))


def _info(name: str, repo: Repo) -> dict[str, Any]:
    siblings = []
    for path, data in repo.files.items():
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
        if path.endswith(LARGE):
            digest = sha256(data)
            entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        siblings.append(entry)
    return {
        "_id": "0",
        "id": name,
        "sha": repo.commit,
        "private": False,
        "gated": "auto" if repo.gated else False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "cardData": {"license": repo.licence},
        "siblings": siblings,
    }
