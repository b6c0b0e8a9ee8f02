"""Topics → terms: graphs are asked in order, level by level, within one time budget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lora_factory.contracts.base import sha256_json
from lora_factory.contracts.expansion import (
    DroppedTerm,
    Expansion,
    ExpansionSpec,
    Graph,
    GraphAnswer,
    Status,
    Term,
    alone,
)
from lora_factory.contracts.settings import Settings
from lora_factory.crawl.graph.assertions import LocalConceptNet
from lora_factory.crawl.graph.base import Absent, GraphError, KnowledgeGraph, TooLate
from lora_factory.crawl.graph.conceptnet import ConceptNet
from lora_factory.crawl.graph.http import Deadline, JsonClient
from lora_factory.crawl.graph.memory import Breaker, Memory, Remembered
from lora_factory.crawl.graph.terms import Candidate, Sieve, Start, starts
from lora_factory.crawl.graph.wordnet import WordNet, revision
from lora_factory.crawl.hosts import HostRules
from lora_factory.errors import ConfigurationError
from lora_factory.models.roles import TextEmbedder

log = logging.getLogger(__name__)

POLL = 0.1  # seconds between looks at the stop flag
MOST_LOOKUPS = 200  # of one graph, whatever depth and fan-out would make of it


def expand(
    topics: Sequence[str],
    spec: ExpansionSpec,
    settings: Settings,
    embedder: TextEmbedder | None,
    check_stop: Callable[[], None] = lambda: None,
) -> Expansion:
    """Topics → the topics and what graphs name beside them; never fails because one is down.

    Args:
        topics: of the run, at least one.
        spec: graphs, depth, limits, time.
        settings: the deployment: endpoints, data files, allowed hosts, cache folder.
        embedder: judges whether a term is still about its topic; None: nothing can, so the
            topics stay alone. Asked only once a graph has named something.
        check_stop: called while graphs are waited for; raises to stop.

    Raises:
        FactoryError: the embedder can't be loaded, or ``check_stop`` raises.
    """
    begun = time.monotonic()
    own = alone(tuple(topics))
    sieve = Sieve(topics, spec.languages, spec.min_similarity, embedder)
    answers: list[GraphAnswer] = []
    found: list[Term] = []
    left = spec.seconds
    graphs = tuple(dict.fromkeys(spec.graphs))
    for at, graph in enumerate(graphs):
        asking = _Asking(graph, spec, settings, left / (len(graphs) - at), check_stop)
        try:
            terms = asking.run(own, sieve)
        finally:
            asking.close()
        left = max(0.0, left - asking.seconds)
        found += terms
        answers.append(asking.answer())
    kept, over = _best(found, spec.max_terms)
    answers = _count_kept(answers, kept)
    for answer in answers:
        log.info("topic expansion: %s", describe(answer))
    return Expansion(
        terms=(*own.terms, *kept),
        graphs=tuple(answers),
        dropped=(*sieve.dropped, *over),
        seconds=round(time.monotonic() - begun, 3),
    )


def describe(answer: GraphAnswer) -> str:
    """One line for a person."""
    text = f"{answer.graph} {answer.status} in {answer.seconds:.1f} s"
    if answer.asked:
        text += f", {answer.asked} words asked, {answer.named} terms named, {answer.kept} kept"
    return f"{text} ({answer.detail})" if answer.detail else text


def revisions(settings: Settings) -> dict[str, str]:
    """Which data the graphs of this deployment have: they decide what an expansion finds.

    Part of the artifact key, so that a plan made before WordNet was there isn't found again. What
    is not there or can't be read has no entry.
    """
    found = {}
    if settings.wordnet is not None:
        with suppress(OSError):
            found["graph:wordnet"] = revision(settings.wordnet)
    if settings.conceptnet_file is not None:
        with suppress(GraphError):
            about = LocalConceptNet.about(settings.conceptnet_file)
            found["graph:conceptnet_local"] = sha256_json(about)
    return found


def open_graph(
    name: Graph, settings: Settings, languages: Sequence[str], deadline: Deadline
) -> KnowledgeGraph:
    """A provider.

    Raises:
        GraphError: this deployment doesn't have it, or its data can't be read.
    """
    language = languages[0]
    if name == "wordnet":
        if settings.wordnet is None or language != "en":
            msg = "LORA_FACTORY_WORDNET names no folder" if language == "en" else "English only"
            raise Absent(msg)
        return WordNet(settings.wordnet)
    if name == "conceptnet_local":
        if settings.conceptnet_file is None:
            msg = "LORA_FACTORY_CONCEPTNET_FILE names no file"
            raise Absent(msg)
        return LocalConceptNet(settings.conceptnet_file, language)
    return _public(name, settings, languages, deadline)


def _public(
    name: Graph, settings: Settings, languages: Sequence[str], deadline: Deadline
) -> KnowledgeGraph:
    from lora_factory.crawl.graph.wikidata import Wikidata

    endpoint = settings.wikidata_url if name == "wikidata" else settings.conceptnet_url
    try:
        allowed = HostRules(settings.crawl_hosts, public=settings.crawl_public).allows(endpoint)
    except ConfigurationError:  # the deployment allows no host at all
        allowed = False
    if not allowed:
        msg = f"the crawler may not reach {endpoint}"
        raise Absent(msg)
    memory = Memory(settings.scratch.expanduser())
    client = JsonClient(settings, Breaker(memory, f"{name} {endpoint}"), deadline)
    graph: KnowledgeGraph = (
        Wikidata(client, endpoint, languages[0], languages)
        if name == "wikidata"
        else ConceptNet(client, endpoint, languages[0])
    )
    return Remembered(graph, memory, f"{endpoint} {' '.join(languages)}")


@dataclass
class _Asking:
    """One graph being asked, in a thread of its own: whatever it hangs on, we go on in time."""

    graph: Graph
    spec: ExpansionSpec
    settings: Settings
    budget: float
    """Seconds."""
    check_stop: Callable[[], None]
    seconds: float = 0.0
    status: Status = "answered"
    detail: str = ""
    asked: int = 0
    named: int = 0
    deadline: Deadline = field(default_factory=lambda: Deadline(0.0))
    provider: KnowledgeGraph | None = None

    def run(self, own: Expansion, sieve: Sieve) -> list[Term]:
        """Terms it names; sets status and detail."""
        level = [start for topic in own.terms for start in starts(topic.text)]
        level.sort(key=lambda start: -start.weight)  # whole phrases of every topic first
        found: list[Term] = []
        for _ in range(self.spec.depth):
            candidates = self._level(level)
            kept = sieve.judge(candidates, self.graph)
            found += [term for _, term in kept]
            level = self._deeper([start for start, _ in kept])
            if self.status != "answered" or not level:
                break
        return found

    def answer(self) -> GraphAnswer:
        """What became of it."""
        return GraphAnswer(
            graph=self.graph,
            status=self.status,
            seconds=round(self.seconds, 3),
            asked=self.asked,
            named=self.named,
            detail=self.detail[:300],
        )

    def close(self) -> None:
        """Let go of the graph, also where it is still being asked."""
        if self.provider is not None:
            self.provider.close()

    def _level(self, level: Sequence[Start]) -> list[Candidate]:
        """Neighbours of these, as many as could be asked for in time."""
        begun = time.monotonic()
        deadline = self.deadline.at = begun + self.budget - self.seconds
        work = _Lookups(self, list(level))
        thread = threading.Thread(target=work.run, name=f"graph {self.graph}", daemon=True)
        thread.start()
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(min(POLL, max(0.0, deadline - time.monotonic())))
            self.check_stop()
        late = thread.is_alive()
        work.closed.set()
        if late or work.status is not None:
            self.status, self.detail = work.status or "timeout", work.detail or "out of time"
        candidates = list(work.found)
        self.asked += work.asked
        self.named += len(candidates)
        self.seconds += time.monotonic() - begun
        return candidates

    def _deeper(self, kept: Sequence[Start]) -> list[Start]:
        """What to look up next: the heaviest of each topic."""
        chosen: dict[str, list[Start]] = {}
        for start in sorted(kept, key=lambda start: -start.weight):
            chosen.setdefault(start.topic, []).append(start)
        nearest = [start for found in chosen.values() for start in found[: self.spec.fan_out]]
        return nearest[: max(0, MOST_LOOKUPS - self.asked)]


class _Lookups:
    """Looks words up until it is through, fails, or is closed; what it has found stands."""

    def __init__(self, asking: _Asking, level: list[Start]) -> None:
        self._asking, self._level = asking, level
        self.closed = threading.Event()
        self.found: list[Candidate] = []
        self.asked = 0
        self.status: Status | None = None
        self.detail = ""

    def _open(self) -> KnowledgeGraph:
        asking = self._asking
        if asking.provider is None:
            asking.provider = open_graph(
                asking.graph, asking.settings, asking.spec.languages, asking.deadline
            )
        return asking.provider

    def run(self) -> None:
        """Ask."""
        try:
            graph = self._open()
            for start in self._level:
                if self.closed.is_set():
                    return
                found = graph.related(start.text, self._asking.spec.fan_out)
                if self.closed.is_set():
                    return
                self.asked += 1
                self.found += [Candidate(start, one) for one in found]
        except GraphError as err:
            kind: Status = "error"
            if isinstance(err, TooLate):
                kind = "timeout"
            elif isinstance(err, Absent) and not self.asked and not self._asking.asked:
                kind = "skipped"
            self.status, self.detail = kind, str(err)
        except Exception as err:
            if self.closed.is_set():
                return  # nobody waits for it any more, and it was closed
            # The one boundary: a graph we fail on is reported and must not end the run.
            log.exception("graph %s", self._asking.graph)
            self.status, self.detail = "error", f"{type(err).__name__}: {err}"


def _best(found: Sequence[Term], limit: int) -> tuple[list[Term], list[DroppedTerm]]:
    """The ``limit`` best terms, topics in turn so that none is left out, and the others."""
    by_topic: dict[str, list[Term]] = {}
    for term in sorted(found, key=lambda term: (-term.weight * max(term.similarity, 0), term.text)):
        by_topic.setdefault(term.topic, []).append(term)
    turns = [
        (rank, at, term)
        for at, terms in enumerate(by_topic.values())
        for rank, term in enumerate(terms)
    ]
    turns.sort(key=lambda turn: turn[:2])
    kept = [term for _, _, term in turns[:limit]]
    over = [
        DroppedTerm(
            text=term.text,
            topic=term.topic,
            graph=term.graph,
            reason="over_limit",
            detail=f"max_terms {limit}",
        )
        for _, _, term in turns[limit:]
        if term.graph is not None
    ]
    kept.sort(key=lambda term: (-term.weight, term.text))
    return kept, over


def _count_kept(answers: Sequence[GraphAnswer], kept: Sequence[Term]) -> list[GraphAnswer]:
    return [
        answer.model_copy(update={"kept": sum(term.graph == answer.graph for term in kept)})
        for answer in answers
    ]
