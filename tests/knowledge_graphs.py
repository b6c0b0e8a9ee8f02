"""Small knowledge graphs: WordNet's files, ConceptNet's dump, and a server of the two APIs."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

ANIMALS: dict[str, tuple[str, Sequence[str], str]] = {
    "animal": ("", ("animal", "animate_being"), "a living organism"),
    "chordate": ("animal", ("chordate",), "an animal of the phylum Chordata"),
    "bird": ("chordate", ("bird",), "warm-blooded egg-laying vertebrates"),
    "owl": ("bird", ("owl", "bird_of_Minerva"), "nocturnal bird of prey"),
    "penguin": ("bird", ("penguin",), "short-legged flightless birds"),
    "polar_bear": ("chordate", ("polar_bear", "ice_bear", "Thalarctos_maritimus"), "white bear"),
    "mouse": ("chordate", ("mouse",), "small rodents"),
    "slur": ("chordate", ("slurword",), "(ethnic slur) offensive term for somebody"),
    "machine": ("", ("machine",), "a device"),
    "lifting": ("machine", ("crane",), "lifts heavy objects"),
}
COUNTS = {"owl%1:05:00::": 12, "mouse%1:05:00::": 3, "penguin%1:05:00::": 1}


def write_wordnet(folder: Path) -> Path:
    """``index.noun``, ``data.noun``, ``noun.exc`` and ``cntlist.rev`` of :data:`ANIMALS`."""
    folder.mkdir(parents=True, exist_ok=True)
    below: dict[str, list[str]] = {name: [] for name in ANIMALS}
    for name, (above, _, _) in ANIMALS.items():
        if above:
            below[above].append(name)
    header = "  1 This software and database is being provided to you, the LICENSEE,\n"
    offsets = dict.fromkeys(ANIMALS, 0)
    for _ in range(2):  # the lengths don't depend on the offsets
        data = header
        for name, (above, words, gloss) in ANIMALS.items():
            offsets[name] = len(data)
            pointers = ([("@", above)] if above else []) + [("~", kind) for kind in below[name]]
            fields = [f"{offsets[name]:08d}", "05", "n", f"{len(words):02x}"]
            fields += [f"{word} 0" for word in words] + [f"{len(pointers):03d}"]
            fields += [f"{symbol} {offsets[to]:08d} n 0000" for symbol, to in pointers]
            data += " ".join(fields) + f" | {gloss}  \n"
    lemmas: dict[str, list[int]] = {}
    for name, (_, words, _) in ANIMALS.items():
        for word in words:
            lemmas.setdefault(word.lower(), []).append(offsets[name])
    index = header
    for lemma, found in sorted(lemmas.items()):
        places = " ".join(f"{offset:08d}" for offset in found)
        index += f"{lemma} n {len(found)} 2 @ ~ {len(found)} 0 {places}  \n"
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text(index)
    (folder / "noun.exc").write_text("mice mouse\n")
    (folder / "cntlist.rev").write_text("".join(f"{k} 1 {n}\n" for k, n in sorted(COUNTS.items())))
    return folder


EDGES: tuple[tuple[str, str, str, float], ...] = (
    ("IsA", "/c/en/owl/n", "/c/en/bird/n", 4.0),
    ("IsA", "/c/en/penguin/n/wn/animal", "/c/en/bird", 2.0),
    ("IsA", "/c/en/bird", "/c/en/animal", 4.0),
    ("HasA", "/c/en/bird", "/c/en/feather", 2.0),
    ("Synonym", "/c/de/vogel/n", "/c/en/bird/n", 2.0),
    ("RelatedTo", "/c/en/bird", "/c/en/nude", 1.0),
    ("Antonym", "/c/en/bird", "/c/en/fish", 1.0),
    ("RelatedTo", "/c/en/owl", "/c/en/night", 1.0),
    ("ExternalURL", "/c/en/bird", "http://example.org/bird", 1.0),
)


def assertion(relation: str, start: str, end: str, weight: float) -> bytes:
    """One line of the dump."""
    about = {"dataset": "/d/x", "license": "cc:by/4.0", "sources": [], "weight": weight}
    uri = f"/a/[/r/{relation}/,{start}/,{end}/]"
    return "\t".join((uri, f"/r/{relation}", start, end, json.dumps(about))).encode() + b"\n"


def write_dump(path: Path, edges: Sequence[tuple[str, str, str, float]] = EDGES) -> Path:
    """The official dump, with these edges."""
    path.write_bytes(gzip.compress(b"".join(assertion(*edge) for edge in edges)))
    return path


ITEMS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "Q1": ("bird", {"P279": ["Q2"]}),
    "Q2": ("animal", {}),
    "Q3": ("owl", {"P279": ["Q1"]}),
    "Q4": ("penguin", {"P279": ["Q1"]}),
    "Q5": ("feather", {"P361": ["Q1"]}),
}


@dataclass
class GraphServer:
    """Plays both APIs on loopback; ``mode`` says how it behaves."""

    mode: str = "ok"
    elsewhere: str = ""
    """Where the mode ``redirect`` leads."""
    hits: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    port: int = 0
    left: int = 0
    """Requests that the mode still holds for; 0: all."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def api(self) -> str:
        return f"{self.url}/w/api.php"

    def take(self) -> str:
        """The mode for the next request."""
        mode = self.mode
        if self.left:
            self.left -= 1
            if not self.left:
                self.mode = "ok"
        return mode


def answer(path: str) -> Any:
    """What the real services would say."""
    parts = urlsplit(path)
    if parts.path.startswith("/c/"):
        node = unquote(parts.path)
        found = [edge for edge in EDGES if any(_is(uri, node) for uri in edge[1:3])]
        return {"@id": node, "edges": [_edge(*edge) for edge in found]}
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if asked.get("action") == "wbsearchentities":
        word = asked["search"].lower().removesuffix("s")
        return {
            "search": [
                {"id": item, "label": label, "match": {"type": "label", "text": label}}
                for item, (label, _) in ITEMS.items()
                if label == word
            ]
        }
    if asked.get("action") == "query":
        wanted = [one.split("=") for one in asked["srsearch"].partition(":")[2].split("|")]
        hits = [
            {"ns": 0, "title": item}
            for item, (_, claims) in ITEMS.items()
            if any(other in claims.get(property_, ()) for property_, other in wanted)
        ]
        return {"query": {"search": hits}}
    return {"entities": {item: _entity(item) for item in asked["ids"].split("|")}}


def _is(uri: str, node: str) -> bool:
    return uri == node or uri.startswith(node + "/")


def _edge(relation: str, start: str, end: str, weight: float) -> dict[str, Any]:
    ends = {
        name: {"@id": uri, "label": uri.split("/")[3], "language": uri.split("/")[2]}
        for name, uri in (("start", start), ("end", end))
    }
    return {**ends, "rel": {"@id": f"/r/{relation}", "label": relation}, "weight": weight}


def _entity(item: str) -> dict[str, Any]:
    label, claims = ITEMS[item]
    return {
        "id": item,
        "labels": {"en": {"language": "en", "value": label}},
        "claims": {
            property_: [
                {"rank": "normal", "mainsnak": {"datavalue": {"value": {"id": other}}}}
                for other in others
            ]
            for property_, others in claims.items()
        },
    }


BODIES = {
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "deep": b"[" * 100_000,
    "nan": b'{"edges": NaN}',
    "list": b"[1, 2]",
    "surrogate": b'{"edges": [{"rel": {"@id": "/r/IsA"}, "weight": 1, "start": {"@id": '
    b'"/c/en/\\ud800owl"}, "end": {"@id": "/c/en/bird"}}], "search": 3}',
}
"""Mode → what is sent in place of an answer."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        site = self.server.site
        site.hits.append(self.path)
        site.agents.add(self.headers["User-Agent"])
        mode = site.take()
        if mode.startswith("wait "):
            time.sleep(float(mode.split()[1]))
            mode = "ok"
        body = BODIES.get(mode) or json.dumps(answer(self.path)).encode()
        if mode in {"500", "403"}:
            self._send(int(mode), b"no")
        elif mode.startswith("429 "):
            self._send(429, b"", {"Retry-After": mode.split(maxsplit=1)[1]})
        elif mode in {"redirect", "loop"}:
            self._send(302, b"", {"Location": site.elsewhere or self.path})
        elif mode in {"cut", "drip"}:
            self._send(200, body[:10], {"Content-Length": "5000"})
            self._drip(100 if mode == "drip" else 0)
        elif mode == "gzip":
            self._send(200, gzip.compress(body), {"Content-Encoding": "gzip"})
        else:
            self._send(200, b'["' + b"x" * 5_000_000 + b'"]' if mode == "huge" else body)

    def _drip(self, bytes_: int) -> None:
        for _ in range(bytes_):
            self.wfile.write(b" ")
            time.sleep(0.05)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: GraphServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""


@contextmanager
def serve_graphs(mode: str = "ok", tls: ssl.SSLContext | None = None) -> Iterator[GraphServer]:
    """The APIs, while the context is open."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.site = GraphServer(mode, port=server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class TableEmbedder:
    """Texts → unit vectors of the plane, by the cosine to the first axis that a table gives.

    Words that aren't in the table are on the axis: nothing drifts but what the table says.
    """

    def __init__(self, cosines: dict[str, float] | None = None) -> None:
        self._cosines = cosines or {}
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += texts
        cosines = np.array([self._cosines.get(text, 1.0) for text in texts], dtype=np.float32)
        return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
