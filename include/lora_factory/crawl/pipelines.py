"""What the spider yields ends here."""

from __future__ import annotations

from typing import Any, Self

from scrapy.exceptions import DropItem

from lora_factory.contracts.records import AuditRecord, RawRecord


class LedgerPipeline:
    """Enters every record and verdict in the crawl's ledger."""

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        """Built by Scrapy."""
        return cls(crawler)

    def process_item(self, item: Any) -> Any:
        """Take in a RawRecord or an AuditRecord.

        Raises:
            DropItem: it is neither.
        """
        if not isinstance(item, RawRecord | AuditRecord):
            msg = f"not a record: {type(item).__name__}"
            raise DropItem(msg)
        self._crawler.spider.job.ledger.add(item)
        return item
