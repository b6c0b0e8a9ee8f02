"""Everything a crawl saw: records of what it kept, and one verdict on each page and image.

Workers write it down in *chunks*: JSON lines of entries, in any order, some of them twice when a
worker died. A :class:`Ledger` takes entries in and settles what they come to. It lies on disk, so
its size in memory doesn't grow with the crawl.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lora_factory.contracts.base import Contract, Counts
from lora_factory.contracts.records import AuditRecord, RawRecord
from lora_factory.contracts.specs import Source
from lora_factory.crawl.report import CrawlReport
from lora_factory.crawl.visits import FILE as VALIDATORS
from lora_factory.crawl.visits import Visit
from lora_factory.errors import DataError

STAGE = "crawl"
What = Literal["page", "image"]


class KeptImage(Contract):
    """An image that was stored."""

    record: RawRecord
    size: int = Field(ge=0, description="Bytes")


class PageScores(Contract):
    """Topic scores of a page that was kept (or of an image that a listing names)."""

    url: str
    topics: dict[str, float]


class SeedAnswer(Contract):
    """Whether a seed could be fetched; ``cause`` says why not, empty where it was."""

    url: str
    cause: str = ""


Entry = AuditRecord | KeptImage | PageScores | SeedAnswer | Visit
KINDS: dict[str, type[Entry]] = {
    kind.__name__: kind for kind in (AuditRecord, KeptImage, PageScores, SeedAnswer, Visit)
}
OPT_OUT, KEPT, DROPPED, NOT_FETCHED = range(4)
"""Of several verdicts on one URL the first of these stands: a reservation beats everything."""
WEAK = frozenset({
    "over_budget",
    "dead_letter",
    "irrelevant_link",
    "duplicate_url",
    "too_deep",
    "host_budget",
})

SCHEMA = """
CREATE TABLE audit (
    what TEXT, item BLOB, rank INTEGER, reason TEXT, line TEXT, PRIMARY KEY (what, item)
) WITHOUT ROWID;
CREATE TABLE images (url BLOB PRIMARY KEY, sha256 TEXT, licence TEXT, size INTEGER, line TEXT)
    WITHOUT ROWID;
CREATE INDEX bytes ON images (sha256, url);
CREATE TABLE scores (topic TEXT, url BLOB, score REAL, PRIMARY KEY (topic, url)) WITHOUT ROWID;
CREATE TABLE visits (url BLOB PRIMARY KEY, line TEXT) WITHOUT ROWID;
CREATE TABLE seeds (url TEXT PRIMARY KEY, cause TEXT) WITHOUT ROWID;
"""


def dropped(what: What, item: str, reason: str, detail: str = "") -> AuditRecord:
    """The audit record of a page or image that is not kept."""
    return AuditRecord(
        item=item[:2000],
        what=what,
        stage=STAGE,
        verdict="dropped",
        reason=reason,
        detail=detail[:300],
    )


def kept(what: What, item: str, detail: str = "") -> AuditRecord:
    """The audit record of a page or image that is kept."""
    return AuditRecord(item=item, what=what, stage=STAGE, verdict="kept", detail=detail)


def dump_chunk(entries: Iterable[Entry]) -> bytes:
    """Entries as JSON lines; lone surrogates of hostile text are escaped."""
    lines = (json.dumps({type(entry).__name__: entry.model_dump(mode="json")}) for entry in entries)
    return "".join(f"{line}\n" for line in lines).encode()


def read_chunk(data: bytes) -> Iterator[Entry]:
    """The entries of :func:`dump_chunk`."""
    for line in data.splitlines():
        ((kind, value),) = json.loads(line).items()
        yield KINDS[kind].model_validate(value)


class Ledger:
    """Takes in entries, once or more often; writes them sorted: equal crawls give equal bytes.

    Args:
        path: its file, made anew.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        # Made anew after a crash: nothing of it has to be safe.
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def add(self, entry: Entry) -> None:
        """Take in one entry; a kept image's verdict is added by itself."""
        if isinstance(entry, AuditRecord):
            self._judge(entry)
        elif isinstance(entry, KeptImage):
            record = entry.record
            self._db.execute(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)",
                (_blob(record.url), record.sha256, record.licence, entry.size, _line(record)),
            )
            self._judge(kept("image", record.url))
        elif isinstance(entry, PageScores):
            self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
                [(topic, _blob(entry.url), score) for topic, score in entry.topics.items()],
            )
        elif isinstance(entry, Visit):
            self._db.execute(
                "INSERT OR REPLACE INTO visits VALUES (?, ?)", (_blob(entry.url), _line(entry))
            )
        else:
            self._db.execute(
                "INSERT INTO seeds VALUES (?, ?) ON CONFLICT DO UPDATE SET cause = excluded.cause"
                " WHERE excluded.cause < cause",  # the empty one is the least: it was reached
                (entry.url, entry.cause),
            )

    def unreached(self) -> dict[str, str]:
        """Seed → why it couldn't be fetched, when none could; else nothing."""
        causes = dict(self._db.execute("SELECT url, cause FROM seeds ORDER BY url"))
        return {} if "" in causes.values() else causes

    def settle(self) -> None:
        """Once everything is in: images that were reserved after all go, and bytes stay once."""
        reserved = (
            "DELETE FROM images WHERE url IN"
            " (SELECT item FROM audit WHERE what = 'image' AND rank = ?)"
        )
        self._db.execute(reserved, (OPT_OUT,))
        twice = (
            "SELECT b.url, a.url FROM images b JOIN images a ON a.sha256 = b.sha256"
            " WHERE a.url = (SELECT min(url) FROM images WHERE sha256 = b.sha256) AND a.url < b.url"
        )
        for url, first in self._db.execute(twice).fetchall():
            detail = f"same bytes as {first.decode('utf-8', 'replace')}"
            verdict = dropped("image", _text(url), "exact_duplicate", detail)
            self._db.execute("DELETE FROM images WHERE url = ?", (url,))
            self._db.execute("DELETE FROM audit WHERE what = 'image' AND item = ?", (url,))
            self._judge(verdict)

    def files(self) -> Iterator[str]:
        """``images/…`` of the records."""
        for (line,) in self._db.execute("SELECT line FROM images ORDER BY sha256"):
            yield json.loads(line)["file_name"]

    def write(self, out: Path) -> None:
        """Write ``records.jsonl``, ``audit.jsonl`` and ``validators.jsonl``."""
        for name, query in (
            ("records.jsonl", "SELECT line FROM images ORDER BY url"),
            ("audit.jsonl", "SELECT line FROM audit ORDER BY what, item"),
            (VALIDATORS, "SELECT line FROM visits ORDER BY url"),
        ):
            with (out / name).open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for (line,) in self._db.execute(query))

    def counts(self, what: What) -> Counts:
        """Seen, kept and dropped pages or images."""
        query = "SELECT reason, count(*) FROM audit WHERE what = ? GROUP BY reason ORDER BY reason"
        reasons: dict[str, int] = dict(self._db.execute(query, (what,)))
        good = reasons.pop("", 0)
        return Counts(seen=good + sum(reasons.values()), kept=good, dropped=reasons)

    def drop_table(self) -> str:
        """One line: how many pages and images fell for which reason."""
        parts = []
        for what in ("page", "image"):
            counts = self.counts(what)
            reasons = ", ".join(f"{reason} {n}" for reason, n in counts.dropped.items())
            parts.append(f"{what}s {counts.kept} of {counts.seen} kept ({reasons or 'none lost'})")
        return "; ".join(parts)

    def report(self, source: Source) -> CrawlReport:
        """The stage's report.

        Raises:
            DataError: no image was kept; the message holds the drop table.
        """
        images = self.counts("image")
        if not images.kept:
            msg = f"the crawl kept no image: {self.drop_table()}; widen topics, seeds or licences"
            raise DataError(msg)
        pages = self.counts("page")
        licences = "SELECT licence, count(*) FROM images GROUP BY licence ORDER BY licence"
        topics = "SELECT topic, round(avg(score), 4) FROM scores GROUP BY topic"
        (size,) = self._db.execute("SELECT sum(size) FROM images").fetchone()
        return CrawlReport(
            counts=images,
            source=source,
            pages_seen=pages.seen,
            pages_kept=pages.kept,
            pages_dropped=pages.dropped,
            bytes_kept=size,
            licences=dict(self._db.execute(licences)),
            topics=dict(self._db.execute(topics)),
        )

    def _judge(self, entry: AuditRecord) -> None:
        self._db.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " rank = excluded.rank, reason = excluded.reason, line = excluded.line"
            " WHERE (excluded.rank, excluded.line) < (rank, line)",
            (entry.what, _blob(entry.item), _rank(entry), entry.reason, _line(entry)),
        )


def _rank(entry: AuditRecord) -> int:
    if entry.verdict == "kept":
        return KEPT
    if entry.what == "image" and entry.reason == "opt_out":
        return OPT_OUT
    return NOT_FETCHED if entry.reason in WEAK else DROPPED


def _line(record: Contract) -> str:
    return json.dumps(record.model_dump(mode="json"))


def _blob(text: str) -> bytes:
    """Text as SQLite can hold it, lone surrogates too; sorts by code point."""
    return text.encode("utf-8", "surrogatepass")


def _text(blob: Any) -> str:
    return str(bytes(blob).decode("utf-8", "surrogatepass"))
