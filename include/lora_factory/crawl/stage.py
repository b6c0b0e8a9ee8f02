"""crawl: topics → raw images with their words and licences (article, 1.1).

Writes ``images/<sha256>.<ext>``, ``records.jsonl`` and ``audit.jsonl``; the audit has a
verdict on every page and image that was seen.

Under Airflow ``plan.py`` is a task of its own before it, and so is each worker (``work.py``)
where there are several: then only what they brought is put together here (``merge.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

from lora_factory.contracts.expansion import Expansion
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import OWN, CrawlRequest, CrawlSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.crawl.graph.expand import revisions
from lora_factory.crawl.plan import expand_topics, read_plan
from lora_factory.crawl.report import CrawlReport

KIND: Kind = "raw"
VERSION = 5
SPEC = CrawlSpec


def roles(spec: CrawlRequest) -> tuple[str, ...]:
    """Only the web is judged by a model; a folder or bucket has what its owner put there."""
    return () if spec.source in OWN else ("topic_classifier", "text_embedder")


def conditions(inputs: Mapping[str, LocalArtifact], settings: Settings) -> dict[str, str]:
    """Which data of knowledge graphs the deployment has; a plan has used them already."""
    return {} if "plan" in inputs else revisions(settings)


def run(spec: CrawlSpec, ctx: StageContext) -> CrawlReport:
    """Crawl. All sources but a user's own can run once a process: Twisted's reactor starts once.

    Raises:
        FactoryError: see :func:`crawl_web`, :func:`crawl_folder`, :func:`crawl_bucket` and
            :func:`merge`.
    """
    if spec.source == "folder":
        from lora_factory.crawl.folder import crawl_folder

        return crawl_folder(spec, ctx)
    if spec.source == "bucket":
        from lora_factory.crawl.bucket import crawl_bucket

        return crawl_bucket(spec, ctx)
    artifact = ctx.inputs.get("plan")
    plan = None if artifact is None else read_plan(spec, artifact)
    if artifact is not None and plan is not None and plan.workers > 1:
        from lora_factory.crawl.merge import merge

        return told(merge(spec, artifact.manifest.key, ctx), plan.expansion)
    from lora_factory.crawl.web import crawl_web

    expansion = expand_topics(spec, ctx) if plan is None else plan.expansion
    return told(crawl_web(spec, ctx, expansion), expansion)


def told(report: CrawlReport, expansion: Expansion) -> CrawlReport:
    """The report, with what was looked for and which knowledge graph answered."""
    return report.model_copy(update={"terms": expansion.weights(), "graphs": expansion.graphs})


def finish(spec: CrawlSpec, inputs: Mapping[str, LocalArtifact], settings: Settings) -> None:
    """What several workers shared isn't needed any more."""
    artifact = inputs.get("plan")
    if artifact is not None and read_plan(spec, artifact).workers > 1:
        from lora_factory.crawl.merge import clean_up

        clean_up(spec, artifact.manifest.key, settings)
