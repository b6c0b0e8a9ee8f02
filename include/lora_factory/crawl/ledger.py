"""Everything a crawl saw: records of what it kept, and a verdict on each page and image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from lora_factory.contracts.base import Counts
from lora_factory.contracts.records import AuditRecord, RawRecord, write_jsonl
from lora_factory.contracts.specs import Source
from lora_factory.crawl.report import CrawlReport
from lora_factory.errors import DataError

STAGE = "crawl"
What = Literal["page", "image"]


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


class Ledger:
    """Collects records and audits; writes them sorted, so that equal crawls give equal bytes."""

    def __init__(self) -> None:
        self.records: list[RawRecord] = []
        self.audit: list[AuditRecord] = []
        self.topics: list[dict[str, float]] = []
        self.bytes_kept = 0

    def add(self, entry: RawRecord | AuditRecord) -> None:
        """Take in one record; a kept image's audit is added by itself."""
        if isinstance(entry, AuditRecord):
            self.audit.append(entry)
        else:
            self.records.append(entry)
            self.audit.append(kept("image", entry.url))

    def counts(self, what: What) -> Counts:
        """Seen, kept and dropped pages or images."""
        verdicts = [entry for entry in self.audit if entry.what == what]
        reasons = Counter(entry.reason for entry in verdicts if entry.verdict == "dropped")
        return Counts(
            seen=len(verdicts),
            kept=len(verdicts) - reasons.total(),
            dropped=dict(sorted(reasons.items())),
        )

    def drop_table(self) -> str:
        """One line: how many pages and images fell for which reason."""
        parts = []
        for what in ("page", "image"):
            counts = self.counts(what)
            reasons = ", ".join(f"{reason} {n}" for reason, n in counts.dropped.items())
            parts.append(f"{what}s {counts.kept} of {counts.seen} kept ({reasons or 'none lost'})")
        return "; ".join(parts)

    def write(self, out: Path) -> None:
        """Write ``records.jsonl`` and ``audit.jsonl``."""
        self.records.sort(key=lambda record: record.url)
        self.audit.sort(key=lambda entry: (entry.what, entry.item))
        write_jsonl(out / "records.jsonl", self.records)
        write_jsonl(out / "audit.jsonl", self.audit)

    def report(self, source: Source) -> CrawlReport:
        """The stage's report.

        Raises:
            DataError: no image was kept; the message holds the drop table.
        """
        if not self.records:
            msg = f"the crawl kept no image: {self.drop_table()}; widen topics, seeds or licences"
            raise DataError(msg)
        pages = self.counts("page")
        return CrawlReport(
            counts=self.counts("image"),
            source=source,
            pages_seen=pages.seen,
            pages_kept=pages.kept,
            pages_dropped=pages.dropped,
            bytes_kept=self.bytes_kept,
            licences=dict(sorted(Counter(record.licence for record in self.records).items())),
            topics=self._mean_topics(),
        )

    def _mean_topics(self) -> dict[str, float]:
        names = self.topics[0] if self.topics else {}
        return {
            name: round(sum(scores[name] for scores in self.topics) / len(self.topics), 4)
            for name in names
        }
