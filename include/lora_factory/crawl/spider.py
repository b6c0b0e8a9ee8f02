"""The spider of the article's section 1.1: best links first, within exact budgets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy import exceptions
from scrapy.http import HtmlResponse, Response
from scrapy.spidermiddlewares.httperror import HttpError

from lora_factory.contracts.progress import Progress
from lora_factory.contracts.records import AuditRecord, RawRecord
from lora_factory.contracts.specs import CrawlSpec
from lora_factory.crawl import optout, quality, signals
from lora_factory.crawl.extract import ImageRef, Page, Unparsable, parse_page
from lora_factory.crawl.heap import Frontier
from lora_factory.crawl.hosts import HostRules
from lora_factory.crawl.images import MAX_BYTES, Dropped, ImageStore
from lora_factory.crawl.ledger import Ledger, dropped, kept
from lora_factory.crawl.licences import refusal
from lora_factory.crawl.links import LinkScorer, canonical_url
from lora_factory.crawl.middlewares import Refused
from lora_factory.crawl.sources.base import Source, Unreadable
from lora_factory.crawl.topics import TopicBatcher

log = logging.getLogger(__name__)

PAGE_BYTES = 4 * 1024 * 1024
GONE = frozenset({404, 410})
NOT_FETCHED = frozenset({
    "robots_disallowed",
    "host_not_allowed",
    "opt_out",
})  # cost nothing of max_pages
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

    spec: CrawlSpec
    source: Source
    rules: HostRules
    topics: TopicBatcher
    store: ImageStore
    ledger: Ledger
    token: str  # the name robots.txt addresses us by


@dataclass(frozen=True)
class PageTask:
    """A page to fetch."""

    url: str
    seed: bool = False
    listing: bool = False
    """Names pages or images, and is judged by its source."""


@dataclass(frozen=True)
class ShownImage:
    """Where an image is shown."""

    page_url: str
    page_title: str
    topics: dict[str, float]


@dataclass(frozen=True)
class ImageTask:
    """An image to fetch, with what its page says about it."""

    ref: ImageRef
    shown: ShownImage


class TopicSpider(scrapy.Spider):  # type: ignore[misc]
    """Fetches pages by relevance, judges them, and fetches the images of the good ones."""

    name = "lora_data_miner"

    def __init__(self, job: CrawlJob, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        spec = job.spec
        self.scorer = LinkScorer(spec.topics, spec.min_relevance)
        self.pages: Frontier[PageTask] = Frontier(spec.max_pages)
        self.images: Frontier[ImageTask] = Frontier(spec.max_images)
        self.seen: set[str] = set()
        self.seen_images: set[str] = set()
        self.unwanted: dict[str, float] = {}  # links below the scorer's floor
        self.reached: set[str] = set()  # seeds that answered
        self.seed_errors: dict[str, str] = {}
        self.progress = {
            "pages": Progress("crawl: pages", spec.max_pages, "pages"),
            "images": Progress("crawl: images", spec.max_images, "images"),
        }

    async def start(self) -> AsyncIterator[Any]:
        """Queue what the source begins with."""
        source = self.job.source
        for listing, urls in ((False, source.pages()), (True, source.listings())):
            for seed in urls:
                url = canonical_url(seed)
                if url is None or not self.job.rules.allows(url):
                    self.seed_errors[seed] = "host_not_allowed" if url else "not an http(s) URL"
                    yield dropped("page", seed, "host_not_allowed", self.seed_errors[seed])
                elif url not in self.seen:
                    self.seen.add(url)
                    self.pages.add(PageTask(url, seed=True, listing=listing), 1.0)
        for request in self._due():
            yield request

    async def parse(self, response: Response, **kwargs: Any) -> AsyncIterator[Any]:
        """Judge a page; queue its images and relevant links."""
        task: PageTask = kwargs["task"]
        try:
            look = self._read_listing if task.listing else self._visit
            verdicts = await look(response, task)
        except Exception as err:
            # The one boundary: a page we fail on is counted and must not end the crawl.
            log.exception("page %s", task.url)
            verdicts = [dropped("page", task.url, "internal_error", repr(err))]
        self._settle_page(counts=True)
        for entry in (*verdicts, *self._due()):
            yield entry

    async def parse_image(self, response: Response, task: ImageTask) -> AsyncIterator[Any]:
        """Check, store and record an image."""
        try:
            entry = await self._take(response, task)
        except Exception as err:
            # As above, for images.
            log.exception("image %s", task.ref.url)
            entry = dropped("image", task.ref.url, "internal_error", repr(err))
        self._settle_image(counts=isinstance(entry, RawRecord))
        for output in (entry, *self._due()):
            yield output

    def page_failed(self, failure: Any) -> Iterator[Any]:
        """A page could not be had."""
        task: PageTask = failure.request.cb_kwargs["task"]
        reason, detail = explain(failure.value)
        if task.seed:
            self.seed_errors[task.url] = f"{reason}, {detail}"
        self._settle_page(counts=reason not in NOT_FETCHED)
        yield dropped("page", task.url, reason, detail)
        yield from self._due()

    def image_failed(self, failure: Any) -> Iterator[Any]:
        """An image could not be had."""
        task: ImageTask = failure.request.cb_kwargs["task"]
        self._settle_image(counts=False)
        yield dropped("image", task.ref.url, *explain(failure.value))
        yield from self._due()

    def leftovers(self) -> Iterator[AuditRecord]:
        """Verdicts on what was seen but never asked for; once the crawl is over."""
        for task in self.pages.drain():
            yield dropped("page", task.url, "over_budget", "not fetched")
        for image in self.images.drain():
            yield dropped("image", image.ref.url, "over_budget", "not fetched")
        for url, score in self.unwanted.items():
            yield dropped("page", url, "irrelevant_link", f"link score {score:.2f}, not fetched")

    def _due(self) -> Iterator[scrapy.Request]:
        """Requests the budgets allow now. No page is fetched while enough images are waiting."""
        known = self.images.done + self.images.in_flight + len(self.images)
        if known < self.job.spec.max_images:
            for task in self.pages.take():
                yield self._request(task.url, self.parse, self.page_failed, task)
        for image in self.images.take():
            yield self._request(image.ref.url, self.parse_image, self.image_failed, image)

    def _request(self, url: str, callback: Any, errback: Any, task: Any) -> scrapy.Request:
        size = PAGE_BYTES if isinstance(task, PageTask) else MAX_BYTES
        meta: dict[str, Any] = {"download_maxsize": size}
        headers = {}
        if isinstance(task, PageTask) and task.listing:
            meta["official"] = self.job.source.official
            headers = self.job.source.headers
        # Not filtered by Scrapy: a redirect that it drops silently would never be settled here.
        return scrapy.Request(
            url,
            callback=callback,
            errback=errback,
            cb_kwargs={"task": task},
            headers=headers,
            meta=meta,
            dont_filter=True,
        )

    async def _visit(self, response: Response, task: PageTask) -> list[AuditRecord]:
        if task.seed:
            self.reached.add(task.url)
        url = canonical_url(response.url) or task.url
        if url != task.url:
            if url in self.seen:
                return [dropped("page", task.url, "duplicate_url", f"redirects to {url}")]
            self.seen.add(url)
        if not isinstance(response, HtmlResponse):
            return [dropped("page", task.url, "not_html", type(response).__name__)]
        try:
            page = await asyncio.to_thread(parse_page, response.body, url, response.encoding)
        except Unparsable as err:
            return [dropped("page", task.url, "unparsable", str(err))]
        rules = self._directives(response) | optout.meta_directives(page.metas, self.job.token)
        if refused := rules & optout.NO_PAGE:
            return [dropped("page", task.url, "opt_out", ", ".join(sorted(refused)))]
        evidence = signals.meta_refusal(page.metas) or await reservation(response, url, page.rsl)
        if evidence:
            return [dropped("page", task.url, "opt_out", evidence)]
        return await self._judge(page, url, task, rules)

    async def _read_listing(self, response: Response, task: PageTask) -> list[AuditRecord]:
        """Queue what a listing names; pages of it are judged when they come."""
        if task.seed:
            self.reached.add(task.url)
        try:
            # Its own URL, not where it was redirected to: the source made the one it can read.
            found = await asyncio.to_thread(self.job.source.read, response.body, task.url)
        except Unreadable as err:
            return [dropped("page", task.url, "unparsable", str(err))]
        verdicts = [kept("page", task.url, "listing")]
        for listing, urls in ((False, found.pages), (True, found.more)):
            for url in map(canonical_url, urls):
                if url is None or url in self.seen:
                    continue
                self.seen.add(url)
                if self.job.rules.allows(url):
                    score = 1.0 if listing else self.scorer.score(url, "", 1.0)
                    self.pages.add(PageTask(url, listing=listing), score)
                else:
                    verdicts.append(dropped("page", url, "host_not_allowed", "from a listing"))
        # All at once, so that the classifier gets them in batches.
        scored = await asyncio.gather(
            *(
                self.job.topics.scores(image.title, f"{image.ref.caption} {image.ref.nearby}")
                for image in found.images
            )
        )
        for image, raw in zip(found.images, scored, strict=True):
            scores = {topic: min(1.0, max(0.0, score)) for topic, score in raw.items()}
            self.job.ledger.topics.append(scores)
            shown = ShownImage(image.page_url, image.title, scores)
            verdicts += self._queue_images([image.ref], shown, opted_out=False)
        return verdicts

    async def _judge(
        self, page: Page, url: str, task: PageTask, rules: frozenset[str]
    ) -> list[AuditRecord]:
        fault = quality.fault(page, self.job.spec)
        # A topic is compared in its own language only.
        foreign = fault is not None and fault[0] == "language"
        scores = {} if foreign else await self.job.topics.scores(page.title, page.text)
        best = max(scores.values(), default=0.0)
        follow = self.job.source.follows_links and not rules & optout.NO_FOLLOW
        verdicts = list(self._queue_links(page, best)) if follow else []
        if fault is None and best < self.job.spec.min_relevance:
            fault = "off_topic", f"topic score {best:.2f}, needs {self.job.spec.min_relevance}"
        if fault is not None:
            return [*verdicts, dropped("page", task.url, *fault)]
        self.job.ledger.topics.append(scores)
        scores = {topic: min(1.0, max(0.0, score)) for topic, score in scores.items()}
        opted_out = bool(rules & optout.NO_IMAGE)
        shown = ShownImage(url, page.title, scores)
        refused = self._queue_images(page.images, shown, opted_out=opted_out)
        return [*verdicts, kept("page", task.url, f"topic score {best:.2f}"), *refused]

    def _queue_links(self, page: Page, parent: float) -> Iterator[AuditRecord]:
        for link in page.links:
            if link.url in self.seen:
                continue
            score = self.scorer.score(link.url, link.anchor, parent)
            if not self.scorer.relevant(score):
                self.unwanted[link.url] = score
                continue
            self.seen.add(link.url)
            self.unwanted.pop(link.url, None)
            if self.job.rules.allows(link.url):
                self.pages.add(PageTask(link.url), score)
            else:
                yield dropped("page", link.url, "host_not_allowed", "not in the deployment's list")

    def _queue_images(
        self, refs: Iterable[ImageRef], shown: ShownImage, *, opted_out: bool
    ) -> Iterator[AuditRecord]:
        for ref in refs:
            if reason := self._image_fault(ref, opted_out=opted_out):
                by_licence = reason.startswith("licence")
                detail = ref.licence.evidence if by_licence else f"on {shown.page_url}"
                yield dropped("image", ref.url, reason, detail)
                continue
            self.seen_images.add(ref.url)
            self.images.add(ImageTask(ref, shown), max(shown.topics.values(), default=0.0))

    def _image_fault(self, ref: ImageRef, *, opted_out: bool) -> str:
        """Reason code why an image isn't fetched; empty where it is."""
        spec = self.job.spec
        if opted_out:
            return "opt_out"
        if ref.fault:
            return ref.fault
        if ref.url in self.seen_images:
            return "duplicate_url"
        if not self.job.rules.allows(ref.url):
            return "host_not_allowed"
        return refusal(ref.licence.id, spec.licences, allow_unknown=spec.allow_unknown_licence)

    async def _take(self, response: Response, task: ImageTask) -> RawRecord | AuditRecord:
        ref = task.ref
        if refused := self._directives(response) & optout.NO_IMAGE:
            return dropped("image", ref.url, "opt_out", ", ".join(sorted(refused)))
        if evidence := await reservation(response, response.url):
            return dropped("image", ref.url, "opt_out", evidence)
        try:
            image = await asyncio.to_thread(self.job.store.check, response.body)
            self.job.store.keep(image, ref.url)
        except Dropped as verdict:
            return dropped("image", ref.url, verdict.reason, verdict.detail)
        return RawRecord(
            sha256=image.sha256,
            file_name=image.file_name,
            url=ref.url,
            page_url=task.shown.page_url,
            alt=ref.alt,
            caption=ref.caption,
            nearby=ref.nearby,
            page_title=task.shown.page_title,
            topics=task.shown.topics,
            licence=ref.licence.id,
            licence_evidence=ref.licence.evidence,
            width=image.width,
            height=image.height,
        )

    def _directives(self, response: Response) -> frozenset[str]:
        values = (v.decode("latin-1") for v in response.headers.getlist("X-Robots-Tag"))
        return optout.header_directives(values, self.job.token)

    def _settle_page(self, *, counts: bool) -> None:
        self.pages.settle(counts=counts)
        self._advance("pages", self.pages, self.job.spec.max_pages)

    def _settle_image(self, *, counts: bool) -> None:
        self.images.settle(counts=counts)
        self._advance("images", self.images, self.job.spec.max_images)

    def _advance(self, what: str, frontier: Frontier[Any], limit: int) -> None:
        progress = self.progress[what]
        waiting = frontier.in_flight + len(frontier)
        # One more than is known until nothing is: the end of a crawl shows only when it is there.
        progress.total = min(limit, progress.done + 1 + waiting) + bool(waiting)
        progress.advance(note=f"{len(self.job.store)} images kept")


async def reservation(response: Response, url: str, rsl: Iterable[str] = ()) -> str:
    """Evidence that what came is reserved against training, by its headers or RSL licences."""
    headers = {
        name.decode("latin-1").lower(): [value.decode("latin-1") for value in values]
        for name, values in response.headers.items()
    }
    if evidence := signals.header_refusal(headers):
        return evidence
    path = urlsplit(url).path or "/"
    for licence in {*rsl, *signals.rsl_links(headers, url)}:
        rules = await response.meta["site_reader"].licence(licence)
        if evidence := signals.refusal(path, rules):
            return evidence
    return ""


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
