"""A hub's write API on loopback: repositories with branches, tags and large-file storage.

Answers as the real one does to what ``huggingface_hub`` sends when it publishes (its own legacy
large-file upload, not Xet). :attr:`Hub.lose_after` takes the hub away after some changes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_server import git_sha1, sha256

TOKEN = "hf_of-the-tests"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by their id; branches and tags point at them."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        """Put a commit on top of a branch."""
        parent = self.branches.get(branch, "")
        content = [parent, len(self.commits), sorted((p, sha256(d)) for p, d in files.items())]
        oid = hashlib.sha1(json.dumps(content).encode(), usedforsecurity=False).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def at(self, revision: str) -> str | None:
        """Commit of a branch, a tag or a commit."""
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)


class Hub:
    """The server and what it holds."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.corrupt: set[str] = set()
        """Paths that are handed out with another last byte."""
        self.changes = 0
        self.lose_after: int | None = None
        """After so many further changes every request fails, until it is None again."""
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Hub]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def state(self) -> Any:
        """Everything there is, to compare."""
        return {
            name: (dict(repo.branches), dict(repo.tags)) for name, repo in self.repositories.items()
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            if self._lost(path):
                self.answer(507)  # the library asks again after most others
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}" and self.command != "PUT":
                self.answer(401, error="RepoNotFound")
            else:
                self._route(path, body)

    def _lost(self, path: str) -> bool:
        hub = self.hub
        reads = ("preupload", "validate-yaml")
        if hub.lose_after is not None:
            if hub.lose_after <= 0:
                return True
            if self.command not in {"GET", "HEAD"} and not any(word in path for word in reads):
                hub.lose_after -= 1
        return False

    def answer(self, status: int, body: Any = None, error: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body if body else {}).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif path.startswith("/lfs/"):
            self.hub.blobs[path.removeprefix("/lfs/")] = body
            self.answer(200)
        elif path.startswith("/api/models/"):
            parts = [*path.removeprefix("/api/models/").split("/", 3), "", ""]
            self._repository("/".join(parts[:2]), parts[2] or "revision", parts[3] or "main", body)
        else:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            self._resolve(name, *rest.split("/", 1))

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "factory":
            self.answer(403)
            return
        if name in self.hub.repositories:
            self.answer(409, {"url": f"{self.hub.url}/{name}"})
            return
        made = Repository(private=asked["visibility"] == "private")
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[name] = made
        self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def _repository(self, name: str, what: str, rest: str, body: bytes) -> None:
        repo = self.hub.repositories.get(name)
        if repo is None:
            self.answer(404, error="RepoNotFound")
        elif what == "refs":
            self.answer(200, _refs(repo))
        elif what == "branch":
            self._branch(repo, rest, body)
        elif (oid := repo.at(rest)) is None:
            self.answer(404, error="RevisionNotFound")
        elif what == "tag":
            tag = json.loads(body)["tag"]
            if tag in repo.tags:
                self.answer(409)
                return
            repo.tags[tag] = oid
            self.answer(200)
        elif what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": modes})
        elif what == "commit":
            self._commit(repo, rest, body)
        elif what == "tree":
            self.answer(200, _tree(repo.commits[oid]))
        else:
            siblings = [{"rfilename": path} for path in repo.commits[oid]]
            self.answer(200, {"id": name, "sha": oid, "siblings": siblings, "tags": []})

    def _branch(self, repo: Repository, branch: str, body: bytes) -> None:
        if self.command == "DELETE":
            self.answer(200 if repo.branches.pop(branch, None) else 404)
        elif branch in repo.branches:
            self.answer(409)
        else:
            repo.branches[branch] = str(repo.at(json.loads(body)["startingPoint"]))
            self.answer(200)

    def _commit(self, repo: Repository, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repo.commits[repo.branches[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value["parentCommit"] != repo.branches[branch]:
                self.answer(412)
                return
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(branch, files)
        self.answer(200, {"commitUrl": f"{self.hub.url}/x/y/commit/{oid}", "commitOid": oid})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repositories.get(name)
        oid = repo.at(revision) if repo else None
        if repo is None:
            self.answer(404, error="RepoNotFound")
        elif oid is None:
            self.answer(404, error="RevisionNotFound")
        elif path not in repo.commits[oid]:
            self.answer(404, error="EntryNotFound")
        else:
            data = repo.commits[oid][path]
            self.answer(200, data[:-1] + b"\0" if path in self.hub.corrupt else data)


def _refs(repo: Repository) -> dict[str, Any]:
    def entries(kind: str, found: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
            for name, oid in found.items()
        ]

    tags = entries("tags", repo.tags)
    return {"branches": entries("heads", repo.branches), "tags": tags, "converts": []}


def _tree(files: Files) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        for path, data in files.items()
    ]
