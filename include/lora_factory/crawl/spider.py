"""The spider of the article's section 1.1: best links first, within exact budgets.

What to fetch next, for how long and how often is the frontier's business (``frontier.py``); when
to ask it and when an outcome is safe is the pump's (``pump.py``). Here is what an answer means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy import exceptions
from scrapy.http import Headers, HtmlResponse, Response
from scrapy.spidermiddlewares.httperror import HttpError

from lora_factory.contracts.expansion import Expansion
from lora_factory.contracts.records import AuditRecord, RawRecord
from lora_factory.contracts.specs import CrawlRequest
from lora_factory.crawl import optout, quality, signals
from lora_factory.crawl.client import BEFORE_BODY, fetch
from lora_factory.crawl.extract import ImageRef, Page, Unparsable, parse_page
from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.images import MAX_BYTES, CheckedImage, Dropped, ImageChecker
from lora_factory.crawl.ledger import Entry, KeptImage, PageScores, SeedAnswer, What, dropped, kept
from lora_factory.crawl.licences import refusal
from lora_factory.crawl.links import LinkScorer, canonical_url, looks_endless
from lora_factory.crawl.middlewares import POLITENESS, Refused
from lora_factory.crawl.pump import Outcome, Pump, Recent
from lora_factory.crawl.revalidate import UNCHANGED
from lora_factory.crawl.sources.base import Source, Unreadable
from lora_factory.crawl.tasks import (
    ImageTask,
    Lease,
    PageTask,
    Scored,
    ShownImage,
    seen_key,
)
from lora_factory.crawl.topics import TopicBatcher
from lora_factory.crawl.visits import visit_of
from lora_factory.errors import FactoryError
from lora_factory.store.workarea import WorkArea

log = logging.getLogger(__name__)

REMEMBERED = 20_000  # hosts, and links whose verdict was written
PAGE_BYTES = 4 * 1024 * 1024
GONE = frozenset({404, 410})
FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.DownloadTimeoutError, "timeout"),
    (exceptions.DownloadCancelledError, "too_large"),
    (exceptions.ResponseDataLossError, "truncated"),
    (exceptions.CannotResolveHostError, "unreachable"),
    (exceptions.DownloadConnectionRefusedError, "unreachable"),
    (exceptions.DownloadFailedError, "unreachable"),
)


@dataclass(frozen=True)
class CrawlJob:
    """What a spider works with."""

    spec: CrawlRequest
    expansion: Expansion
    source: Source
    rules: HostRules
    topics: TopicBatcher
    checker: ImageChecker
    area: WorkArea
    pump: Pump
    token: str  # the name robots.txt addresses us by


class TopicSpider(scrapy.Spider):  # type: ignore[misc]
    """Fetches pages by relevance, judges them, and fetches the images of the good ones."""

    name = "lora_data_miner"

    def __init__(self, job: CrawlJob, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.scorer = LinkScorer(job.spec.topics, job.spec.min_relevance, job.expansion.weights())
        self.told: dict[str, tuple[float, int]] = {}  # hosts whose politeness the frontier knows
        self.refused = Recent(REMEMBERED)  # links whose verdict was written
        self.fetching: set[asyncio.Task[None]] = set()  # images

    async def start(self) -> AsyncIterator[Any]:
        """Queue what the source begins with; then ask for whatever the frontier hands out."""
        await self.job.pump.open(*self._seeds())
        images = asyncio.ensure_future(self._fetch_images())
        async for lease in self.job.pump.leases("page"):
            if lease.rest:
                await self._not_had(self._request(lease), resting(lease))
            else:
                yield self._request(lease)
        await images

    async def closed(self, reason: str) -> None:  # noqa: ARG002 - Scrapy's
        """Called by Scrapy once no page is under way."""
        for task in self.fetching:
            task.cancel()
        await asyncio.gather(*self.fetching, return_exceptions=True)
        await self.job.pump.close()

    async def parse(self, response: Response, lease: Lease, task: PageTask) -> None:
        """Judge a page; what it links to and shows is queued."""
        if error := await self._reserved_before(response):
            await self._not_had(response.request, error)
            return
        await self._fetched(response.meta, lease)
        outcome = Outcome(counts=True)
        if task.seed:
            outcome.entries.append(SeedAnswer(url=task.url))
        try:
            look = self._read_listing if task.listing else self._visit
            await look(response, task, outcome)
        except FactoryError as err:
            self.job.pump.fail(err)  # the lease runs out, and somebody else gets it
            return
        except Exception as err:
            # The one boundary: a page we fail on is counted and must not end the crawl.
            log.exception("page %s", task.url)
            outcome.found.clear()
            _drop(outcome, dropped("page", task.url, "internal_error", repr(err)))
        self.job.pump.settle(lease, outcome)

    async def failed(self, failure: Any) -> None:
        """A page could not be had."""
        await self._not_had(failure.request, failure.value)

    async def _fetch_images(self) -> None:
        """Fetch whatever images the frontier hands out, several at a time."""
        async for lease in self.job.pump.leases("image"):
            if lease.rest:
                await self._not_had(self._request(lease), resting(lease))
                continue
            task = asyncio.ensure_future(self._fetch_image(lease))
            self.fetching.add(task)
            task.add_done_callback(self.fetching.discard)
        if self.fetching:
            await asyncio.wait(self.fetching)

    async def _fetch_image(self, lease: Lease) -> None:
        request = self._request(lease)
        try:
            try:
                response = await fetch(self.crawler.engine, request)
                error: Exception | None = await self._reserved_before(response)
            except Exception as err:
                # As Scrapy does for pages: whatever a request ends with is told by its kind.
                error = err
            if error is not None:
                await self._not_had(request, error)
            else:
                await self._look_at(response, lease)
        except FactoryError as err:
            self.job.pump.fail(err)  # the lease runs out, and somebody else gets it

    async def _look_at(self, response: Response, lease: Lease) -> None:
        """Check, store and record an image."""
        await self._fetched(response.meta, lease)
        outcome, task = Outcome(), lease.task
        try:
            if isinstance(task, ImageTask):
                await self._take(response, task, outcome)
        except FactoryError:
            raise
        except Exception as err:
            # As for pages.
            log.exception("image %s", task.url)
            _drop(outcome, dropped("image", task.url, "internal_error", repr(err)))
        self.job.pump.settle(lease, outcome)

    async def _not_had(self, request: scrapy.Request, error: BaseException) -> None:
        """A page or image could not be had."""
        lease: Lease = request.cb_kwargs["lease"]
        task = lease.task
        reason, detail = explain(error)
        asked = not isinstance(error, Refused) or error.asked
        await self._fetched(request.meta, lease, asked=asked)
        if not isinstance(error, Refused):
            self.job.pump.count_error()
        outcome = Outcome(counts=task.kind == "page" and asked)
        _drop(outcome, dropped(task.kind, task.url, reason, detail))
        if isinstance(task, PageTask) and task.seed:
            outcome.entries.append(SeedAnswer(url=task.url, cause=f"{reason}, {detail}"))
        self.job.pump.settle(lease, outcome)

    def _seeds(self) -> tuple[list[Scored], list[Entry]]:
        source = self.job.source
        tasks, entries = list[Scored](), list[Entry]()
        for listing, urls in ((False, source.pages()), (True, source.listings())):
            for seed in urls:
                url = canonical_url(seed)
                if url is not None and self.job.rules.allows(url):
                    task = PageTask(url=url, seed=True, listing=listing)
                    tasks.append(Scored(task=task, score=1.0))
                else:
                    cause = "host_not_allowed" if url else "not an http(s) URL"
                    entries.append(dropped("page", seed, "host_not_allowed", cause))
                    entries.append(SeedAnswer(url=seed, cause=cause))
        return tasks, entries

    async def _fetched(self, meta: dict[str, Any], lease: Lease, *, asked: bool = True) -> None:
        """A request is over; tell the frontier what politeness its hosts are owed."""
        for host, owed in meta.get(POLITENESS, {}).items():
            if self.told.get(host) != owed:
                if len(self.told) >= REMEMBERED:
                    self.told.clear()
                self.told[host] = owed
                delay, concurrency = owed
                await self.job.pump.frontier.set_host(host, delay=delay, concurrency=concurrency)
        self.job.pump.fetched(lease, asked=asked)

    def _request(self, lease: Lease) -> scrapy.Request:
        task = lease.task
        page = isinstance(task, PageTask)
        meta: dict[str, Any] = {"download_maxsize": PAGE_BYTES if page else MAX_BYTES}
        headers = {}
        if isinstance(task, PageTask) and task.listing:
            meta["official"] = self.job.source.official
            headers = self.job.source.headers
        else:
            meta[BEFORE_BODY] = self._check_head
        # Not filtered by Scrapy: a redirect that it drops silently would never be settled here.
        return scrapy.Request(
            task.url,
            callback=self.parse,
            errback=self.failed,
            cb_kwargs={"lease": lease, "task": task},
            headers=headers,
            meta=meta,
            dont_filter=True,
        )

    async def _check_head(self, request: scrapy.Request, headers: Headers) -> None:
        """Raise :class:`Refused` where the head of an answer reserves what would follow."""
        refused = optout.NO_PAGE if request.cb_kwargs["task"].kind == "page" else optout.NO_IMAGE
        found = refused & self._directives(headers)
        evidence = ", ".join(sorted(found))
        if evidence := evidence or await reservation(headers, request):
            raise Refused(reason="opt_out", detail=evidence, asked=True)

    async def _reserved_before(self, response: Response) -> Refused | None:
        """What the head of an earlier answer reserves, where it has not changed since."""
        if UNCHANGED in response.flags and BEFORE_BODY in response.meta:
            try:
                await self._check_head(response.request, response.headers)
            except Refused as err:
                return err
        return None

    async def _visit(self, response: Response, task: PageTask, outcome: Outcome) -> None:
        url = canonical_url(response.url) or task.url
        if url != task.url:
            owner = await self.job.pump.frontier.claim(seen_key("page", url), task.url)
            if owner != task.url:
                _drop(outcome, dropped("page", task.url, "duplicate_url", f"redirects to {url}"))
                return
        if not isinstance(response, HtmlResponse):
            _drop(outcome, dropped("page", task.url, "not_html", type(response).__name__))
            return
        try:
            page = await asyncio.to_thread(parse_page, response.body, url, response.encoding)
        except Unparsable as err:
            _drop(outcome, dropped("page", task.url, "unparsable", str(err)))
            return
        rules = self._directives(response.headers) | optout.meta_directives(
            page.metas, self.job.token
        )
        if refused := rules & optout.NO_PAGE:
            _drop(outcome, dropped("page", task.url, "opt_out", ", ".join(sorted(refused))))
            return
        evidence = signals.meta_refusal(page.metas) or await licensed(page.rsl, response.request)
        if evidence:
            _drop(outcome, dropped("page", task.url, "opt_out", evidence))
            return
        if visit := visit_of(response, "page"):
            outcome.entries.append(visit)
        await self._judge(page, url, task, rules, outcome)

    async def _read_listing(self, response: Response, task: PageTask, outcome: Outcome) -> None:
        """Queue what a listing names; pages of it are judged when they come."""
        try:
            # Its own URL, not where it was redirected to: the source made the one it can read.
            found = await asyncio.to_thread(self.job.source.read, response.body, task.url)
        except Unreadable as err:
            _drop(outcome, dropped("page", task.url, "unparsable", str(err)))
            return
        outcome.entries.append(kept("page", task.url, "listing"))
        for listing, urls in ((False, found.pages), (True, found.more)):
            for url in map(canonical_url, urls):
                if url is not None:
                    score = 1.0 if listing else self.scorer.score(url, "", 1.0)
                    self._queue_page(PageTask(url=url, listing=listing), score, outcome)
        # All at once, so that the classifier gets them in batches.
        scored = await asyncio.gather(
            *(
                self.job.topics.scores(image.title, f"{image.ref.caption} {image.ref.nearby}")
                for image in found.images
            )
        )
        for image, raw in zip(found.images, scored, strict=True):
            scores = _clipped(raw)
            outcome.entries.append(PageScores(url=image.ref.url, topics=scores))
            shown = ShownImage(page_url=image.page_url, page_title=image.title, topics=scores)
            self._queue_images([image.ref], shown, outcome, opted_out=False)

    async def _judge(
        self, page: Page, url: str, task: PageTask, rules: frozenset[str], outcome: Outcome
    ) -> None:
        fault = quality.fault(page, self.job.spec)
        # A topic is compared in its own language only.
        foreign = fault is not None and fault[0] == "language"
        scores = {} if foreign else await self.job.topics.scores(page.title, page.text)
        best = max(scores.values(), default=0.0)
        if self.job.source.follows_links and not rules & optout.NO_FOLLOW:
            self._queue_links(page, best, task.depth + 1, outcome)
        if fault is None and best < self.job.spec.min_relevance:
            fault = "off_topic", f"topic score {best:.2f}, needs {self.job.spec.min_relevance}"
        if fault is not None:
            _drop(outcome, dropped("page", task.url, *fault))
            return
        outcome.entries.append(kept("page", task.url, f"topic score {best:.2f}"))
        outcome.entries.append(PageScores(url=task.url, topics=scores))
        opted_out = bool(rules & optout.NO_IMAGE)
        shown = ShownImage(page_url=url, page_title=page.title, topics=_clipped(scores))
        self._queue_images(page.images, shown, outcome, opted_out=opted_out)

    def _queue_links(self, page: Page, parent: float, depth: int, outcome: Outcome) -> None:
        for link in page.links:
            score = self.scorer.score(link.url, link.anchor, parent)
            if not self.scorer.relevant(score):
                detail = f"link score {score:.2f}, not fetched"
                self._refuse(outcome, "page", link.url, "irrelevant_link", detail)
            elif depth > self.job.spec.max_depth:
                self._refuse(outcome, "page", link.url, "too_deep", f"{depth} links from a seed")
            elif looks_endless(link.url):
                self._refuse(outcome, "page", link.url, "trap", "its path grows")
            else:
                self._queue_page(PageTask(url=link.url, depth=depth), score, outcome)

    def _queue_page(self, task: PageTask, score: float, outcome: Outcome) -> None:
        if self.job.rules.allows(task.url):
            outcome.found.append(Scored(task=task, score=score))
        else:
            detail = "not in the deployment's list"
            self._refuse(outcome, "page", task.url, "host_not_allowed", detail)

    def _queue_images(
        self, refs: Iterable[ImageRef], shown: ShownImage, outcome: Outcome, *, opted_out: bool
    ) -> None:
        for ref in refs:
            if reason := self._image_fault(ref, opted_out=opted_out):
                by_licence = reason.startswith("licence")
                detail = ref.licence.evidence if by_licence else f"on {shown.page_url}"
                self._refuse(outcome, "image", ref.url, reason, detail)
                continue
            score = max(shown.topics.values(), default=0.0)
            outcome.found.append(Scored(task=ImageTask(ref=ref, shown=shown), score=score))

    def _refuse(self, outcome: Outcome, what: What, url: str, reason: str, detail: str) -> None:
        """The verdict on a link: one for all the pages that have it, as far as we remember."""
        if self.refused.add(f"{what} {reason} {url}"):
            outcome.entries.append(dropped(what, url, reason, detail))

    def _image_fault(self, ref: ImageRef, *, opted_out: bool) -> str:
        """Reason code why an image isn't fetched; empty where it is."""
        spec = self.job.spec
        if opted_out:
            return "opt_out"
        if ref.fault:
            return ref.fault
        if not self.job.rules.allows(ref.url):
            return "host_not_allowed"
        return refusal(ref.licence.id, spec.licences, allow_unknown=spec.allow_unknown_licence)

    async def _take(self, response: Response, task: ImageTask, outcome: Outcome) -> None:
        ref, shown = task.ref, task.shown
        try:
            image = await asyncio.to_thread(self._store, response.body)
        except Dropped as verdict:
            _drop(outcome, dropped("image", ref.url, verdict.reason, verdict.detail))
            return
        if visit := visit_of(response, "image", image.file_name):
            outcome.entries.append(visit)
        first = await self.job.pump.frontier.claim(image.sha256, ref.url)
        outcome.counts = first == ref.url
        if not outcome.counts:
            # Recorded all the same: which of the URLs stands must not depend on who was quicker.
            outcome.reason = "exact_duplicate"
        record = RawRecord(
            sha256=image.sha256,
            file_name=image.file_name,
            url=ref.url,
            page_url=shown.page_url,
            alt=ref.alt,
            caption=ref.caption,
            nearby=ref.nearby,
            page_title=shown.page_title,
            topics=shown.topics,
            licence=ref.licence.id,
            licence_evidence=ref.licence.evidence,
            width=image.width,
            height=image.height,
            perceptual_hash=image.perceptual_hash,
        )
        outcome.entries.append(KeptImage(record=record, size=len(image.data)))

    def _store(self, data: bytes) -> CheckedImage:
        """Look at the bytes and put them where the merge finds them; in a thread, once a picture.

        Under the name of their hash, so it doesn't matter who else brings them.

        Raises:
            Dropped: as :meth:`ImageChecker.check`.
        """
        image = self.job.checker.check(data)
        self.job.area.put_once(image.file_name, image.data)
        return image

    def _directives(self, headers: Headers) -> frozenset[str]:
        values = (v.decode("latin-1") for v in headers.getlist("X-Robots-Tag"))
        return optout.header_directives(values, self.job.token)


def _drop(outcome: Outcome, verdict: AuditRecord) -> None:
    """What was asked for is not kept."""
    outcome.reason = verdict.reason
    outcome.entries.append(verdict)


def _clipped(scores: dict[str, float]) -> dict[str, float]:
    return {topic: min(1.0, max(0.0, score)) for topic, score in scores.items()}


async def reservation(headers: Headers, request: scrapy.Request) -> str:
    """Evidence in an answer's headers that it is reserved against training; else empty."""
    named = {
        name.decode("latin-1").lower(): [value.decode("latin-1") for value in values]
        for name, values in headers.items()
    }
    evidence = signals.header_refusal(named)
    return evidence or await licensed(signals.rsl_links(named, request.url), request)


async def licensed(licences: Iterable[str], request: scrapy.Request) -> str:
    """Evidence in RSL licences that what was asked for is reserved; else empty."""
    path = urlsplit(request.url).path or "/"
    for licence in dict.fromkeys(licences):
        rules = await request.meta["site_reader"].licence(licence)
        if evidence := signals.refusal(path, rules):
            return evidence
    return ""


def resting(lease: Lease) -> Refused:
    """Why a task isn't asked for whose host another worker was told to leave alone."""
    detail = f"{urlsplit(lease.task.url).netloc} wants to be left alone for {lease.rest:.0f} s"
    return Refused(reason="rate_limited", detail=detail)


def explain(error: BaseException) -> tuple[str, str]:
    """Reason code and detail of a request that failed."""
    if isinstance(error, Refused):
        return error.reason, error.detail
    if isinstance(error, HttpError):
        status = error.response.status
        return ("not_found" if status in GONE else "http_error"), f"HTTP {status}"
    if isinstance(error, exceptions.IgnoreRequest):
        # Scrapy says only in words whether it was redirects or an inflated body.
        text = str(error)
        return ("too_many_redirects" if "redirect" in text else "too_large"), text
    for kind, reason in FAILURES:
        if isinstance(error, kind):
            return reason, f"{type(error).__name__}: {error}"
    return "unreachable", f"{type(error).__name__}: {error}"
