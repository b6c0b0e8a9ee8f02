"""crawl.plan: topics → what to look for, and how many workers share it.

Checks the source before a worker starts, and writes ``plan.json`` (:class:`CrawlPlan`). The
artifact's key is the crawl's id. Light: no model is loaded unless a knowledge graph names terms
that have to be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from lora_factory.contracts.base import Counts, StageReport
from lora_factory.contracts.crawl import CrawlPlan
from lora_factory.contracts.expansion import Expansion, GraphAnswer, alone
from lora_factory.contracts.manifest import Kind
from lora_factory.contracts.settings import Settings
from lora_factory.contracts.specs import OWN, CrawlRequest, PlanSpec
from lora_factory.contracts.stage import LocalArtifact, StageContext
from lora_factory.crawl.graph.expand import expand, revisions
from lora_factory.errors import ArtifactError, SpecError
from lora_factory.models.loaders import limit_threads, text_embedder
from lora_factory.models.profiles import Profile, load_profile

if TYPE_CHECKING:
    from lora_factory.models.roles import TextEmbedder, Vectors

KIND: Kind = "crawlplan"
VERSION = 2
SPEC = PlanSpec
FILE = "plan.json"


class PlanReport(StageReport):
    """Stats of a crawlplan; ``counts`` are of terms."""

    workers: int = Field(ge=1)
    graphs: tuple[GraphAnswer, ...] = Field((), description="Which knowledge graph answered")


def roles(spec: PlanSpec) -> tuple[str, ...]:
    """Terms are judged by the text embedder; own images need none."""
    return () if spec.source in OWN else ("text_embedder",)


def conditions(inputs: Mapping[str, LocalArtifact], settings: Settings) -> dict[str, str]:
    """Which data of knowledge graphs the deployment has."""
    del inputs
    return revisions(settings)


def run(spec: PlanSpec, ctx: StageContext) -> PlanReport:
    """Write ``plan.json``.

    Raises:
        SpecError, ConfigurationError, DataError: the source can't be crawled.
    """
    if spec.source in OWN:
        plan = CrawlPlan(workers=1, expansion=alone(spec.topics))
    else:
        from lora_factory.crawl.abandoned import sweep
        from lora_factory.crawl.web import check_source

        check_source(spec, ctx.settings)
        sweep(ctx.settings)
        plan = CrawlPlan(workers=spec.workers, expansion=expand_topics(spec, ctx))
    (ctx.out / FILE).write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    found = plan.expansion
    dropped = Counter(term.reason for term in found.dropped)
    return PlanReport(
        counts=Counts(
            seen=len(found.terms) + len(found.dropped),
            kept=len(found.terms),
            dropped=dict(sorted(dropped.items())),
        ),
        workers=plan.workers,
        graphs=found.graphs,
    )


def expand_topics(spec: CrawlRequest, ctx: StageContext) -> Expansion:
    """The topics and what knowledge graphs name beside them.

    Raises:
        Interrupted: asked to stop.
        FactoryError: the embedder that judges terms can't be loaded.
    """
    embedder = LazyEmbedder(load_profile(spec.profile, ctx.settings), ctx.settings)
    return expand(spec.topics, spec.expansion, ctx.settings, embedder, ctx.check_stop)


def read_plan(spec: CrawlRequest, artifact: LocalArtifact) -> CrawlPlan:
    """The plan of a crawl, as :func:`run` wrote it.

    Raises:
        SpecError: it is another crawl's.
        ArtifactError: it can't be read.
    """
    planned, asked = artifact.manifest.spec, spec.model_dump(mode="json")
    differing = [
        name
        for name in CrawlRequest.model_fields
        if name != "force" and planned.get(name) != asked[name]
    ]
    if artifact.manifest.kind != KIND or differing:
        what = ", ".join(differing) or f"a {artifact.manifest.kind}"
        msg = f"plan {artifact.uri} is not this crawl's ({what}); plan anew, or ask for the same"
        raise SpecError(msg)
    return _read(artifact.path / FILE)


def _read(file: Path) -> CrawlPlan:
    try:
        return CrawlPlan.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as err:
        msg = f"plan {file} can't be read; plan the crawl again"
        raise ArtifactError(msg) from err


class LazyEmbedder:
    """The profile's text embedder, loaded when the first text is to be encoded."""

    def __init__(self, profile: Profile, settings: Settings) -> None:
        self._profile, self._settings = profile, settings
        self._loaded: TextEmbedder | None = None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See :class:`TextEmbedder`."""
        if self._loaded is None:
            limit_threads(self._settings)
            self._loaded = text_embedder(self._profile)
        return self._loaded.encode(texts)
