"""crawl: topics → raw images with their words and licences (article, 1.1).

Writes ``images/<sha256>.<ext>``, ``records.jsonl`` and ``audit.jsonl``; the audit has a
verdict on every page and image that was seen.
"""

from __future__ import annotations

from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.specs import OWN, CrawlSpec
from lora_factory.contracts.stage import StageContext
from lora_factory.crawl.report import CrawlReport

KIND: Kind = "raw"
VERSION = 3
SPEC = CrawlSpec


def roles(spec: CrawlSpec) -> tuple[str, ...]:
    """Only the web is judged by a model; a folder or bucket has what its owner put there."""
    return () if spec.source in OWN else ("topic_classifier", "text_embedder")


def run(spec: CrawlSpec, ctx: StageContext) -> CrawlReport:
    """Crawl. All sources but ``folder`` can run once a process: Twisted's reactor starts once.

    Raises:
        FactoryError: see :func:`crawl_web` and :func:`crawl_folder`.
    """
    if spec.source == "folder":
        from lora_factory.crawl.folder import crawl_folder

        return crawl_folder(spec, ctx)
    if spec.source == "bucket":
        from lora_factory.crawl.bucket import crawl_bucket

        return crawl_bucket(spec, ctx)
    from lora_factory.crawl.web import crawl_web

    return crawl_web(spec, ctx)
