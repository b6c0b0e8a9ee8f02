"""Role ``labeler``, kind ``llm``: one question a picture, many at a time (article, 2.2).

One picture a request: answers of several in one message depend on each other, and the part
that all requests share (instructions, schema) is what endpoints cache by themselves.

What goes wrong with one picture (an answer that is invalid twice, a refusal) leaves it to the
fallback, counted. What goes wrong with the endpoint (wrong key, no such model, down for
several pictures in a row) ends the stage; answers are cached, so a retry goes on from there.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from lora_factory.contracts.progress import Progress
from lora_factory.errors import ConfigurationError, ServiceUnavailable
from lora_factory.label.answer_cache import AnswerCache
from lora_factory.label.answers import Answer, answer_type, instructions, prompt_version, question
from lora_factory.label.report import LlmUse
from lora_factory.models.llm import ChatModel, chat_model

if TYPE_CHECKING:
    from lora_factory.contracts.records import CleanRecord
    from lora_factory.contracts.settings import Settings
    from lora_factory.contracts.stage import StageContext
    from lora_factory.label.taxonomy import Taxonomy
    from lora_factory.models.profiles import RoleModel

log = logging.getLogger(__name__)
DOWN_AFTER = 5
"""So many pictures in a row without an answer, each tried several times: the endpoint is down."""
SIDE = 512
"""Longer side of a picture as it is sent, pixels."""
UNCOUNTED = 5000
"""Tokens that a request counts for where the endpoint tells none: instructions, schema, picture."""
STOP_POLL = 0.2
"""Seconds between looks at the stop flag."""


@dataclass
class Budget:
    """Tokens and dollars of one labelling.

    A question is only asked while all that are under way, each as dear as the dearest so far,
    still fit; before the first answer only one is.
    """

    max_tokens: int
    max_usd: float
    tokens: int = 0
    usd: float = 0.0
    priced: bool = True
    asking: int = 0
    dearest_tokens: int = 0
    dearest_usd: float = 0.0

    def allows(self) -> bool:
        """Whether one more question may be asked now."""
        if self.asking and not self.dearest_tokens:
            return False
        more = self.asking + 1
        fits = self.tokens + more * self.dearest_tokens <= self.max_tokens
        return fits and (not self.max_usd or self.usd + more * self.dearest_usd <= self.max_usd)

    def spend(self, tokens: int, usd: float | None) -> None:
        """Count what one question cost, answered or not."""
        self.tokens += tokens
        self.dearest_tokens = max(self.dearest_tokens, tokens)
        if usd is None:
            self.priced = self.priced and not tokens
            return
        self.usd += usd
        self.dearest_usd = max(self.dearest_usd, usd)


@dataclass(frozen=True)
class Answered:
    """Item index → answer, and what they cost."""

    answers: Mapping[int, Answer]
    use: LlmUse


@dataclass
class LlmLabeler:
    """Asks an endpoint about pictures.

    Args:
        entry: the role's entry in the profile.
        taxonomy: the labels there are.
        ctx: of the stage: settings, the stop flag.
        folder: of the clean artifact.
    """

    entry: RoleModel
    taxonomy: Taxonomy
    ctx: StageContext
    folder: Path
    _answers: dict[int, Answer] = field(default_factory=dict, init=False)
    _lost: Counter[str] = field(default_factory=Counter, init=False)
    _cached: int = field(default=0, init=False)
    _invalid: int = field(default=0, init=False)
    _input: int = field(default=0, init=False)
    _output: int = field(default=0, init=False)
    _turns: int = field(default=0, init=False)
    _silent: int = field(default=0, init=False)
    _ended: str = field(default="", init=False)

    def ask(self, records: Sequence[CleanRecord], topics: tuple[str, ...]) -> Answered:
        """Answers on n pictures, as far as budget and endpoint go.

        Raises:
            ConfigurationError: the endpoint refuses the key, the model or every question.
            ServiceUnavailable: it is down.
            Interrupted: asked to stop.
        """
        settings = self.ctx.settings
        schema = answer_type(self.taxonomy)
        model = chat_model(self.entry, settings)
        self._budget = Budget(settings.llm_max_tokens, settings.llm_max_usd)
        self._pace = Pace(settings.llm_per_minute)
        self._progress = Progress("label: ask", len(records), "images")
        # What a model sees of a picture is the same on every page; blind, it knows the words alone.
        self._shared = question("", "", topics) if self.entry.vision else ""
        version = prompt_version(self.taxonomy, vision=self.entry.vision)
        where = settings.scratch.expanduser() / "answers"
        self._cache = AnswerCache(where, (model.name, version), schema)
        started = time.monotonic()
        questions = [
            (at, record, question(record.text, record.page_title, topics))
            for at, record in enumerate(records)
        ]
        asyncio.run(self._ask_all(model, schema, questions))
        return Answered(self._answers, self._use(model, settings, time.monotonic() - started))

    async def _ask_all(
        self, model: ChatModel, schema: type[Answer], questions: Sequence[Question]
    ) -> None:
        waiting = iter(questions)
        self._spent = asyncio.Condition()
        async with model:
            agent = model.agent(
                schema, instructions(self.taxonomy, vision=self.entry.vision), "picture_labels"
            )
            agent.output_validator(self._check)
            workers = [
                asyncio.ensure_future(self._work(agent, waiting))
                for _ in range(self.ctx.settings.llm_concurrency)
            ]
            try:
                await self._watch(workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _watch(self, workers: Sequence[asyncio.Future[None]]) -> None:
        """Until all are done, one fails, or the stage is asked to stop."""
        pending = set(workers)
        while pending:
            self.ctx.check_stop()
            done, pending = await asyncio.wait(
                pending, timeout=STOP_POLL, return_when=asyncio.FIRST_EXCEPTION
            )
            for worker in done:
                worker.result()

    async def _work(self, agent: Any, waiting: Iterator[Question]) -> None:
        for at, record, asked in waiting:
            await self._label(agent, at, record, asked)
            self._progress.advance(note=f"{self._budget.tokens} tokens")

    async def _label(self, agent: Any, at: int, record: CleanRecord, asked: str) -> None:
        cached = self._shared or asked
        known = self._cache.get(record.sha256, cached)
        if known is not None and self._path_of(known) is not None:
            self._cached += 1
            self._answers[at] = known
            return
        while not self._ended and not self._budget.allows():
            if not self._budget.asking:
                self._end("budget")
                break
            async with self._spent:  # what is under way decides whether this one still fits
                await self._spent.wait()
        if self._ended:
            self._lost[self._ended] += 1
            return
        self._budget.asking += 1
        try:
            await self._pace.wait()
            answer = await self._run(agent, record, asked)
        finally:
            self._budget.asking -= 1
            async with self._spent:
                self._spent.notify_all()
        if answer is not None:
            self._silent = 0
            self._answers[at] = answer
            self._cache.put(record.sha256, cached, answer)

    def _end(self, why: str) -> None:
        self._ended = why
        log.warning("the LLM is asked no more (%s): the rest is labelled without it", why)

    async def _run(self, agent: Any, record: CleanRecord, asked: str) -> Answer | None:
        """The answer, or None where there is none to be had; why is counted."""
        from pydantic_ai.exceptions import (
            ContentFilterError,
            ModelAPIError,
            UnexpectedModelBehavior,
        )
        from pydantic_ai.usage import RunUsage

        usage = RunUsage()
        content: list[Any] = [asked]
        if self.entry.vision:
            content.append(await asyncio.to_thread(self._picture, record))
        try:
            answer: Answer = (await agent.run(content, usage=usage)).output
        except ContentFilterError:
            self._lost["refused"] += 1
            return None
        except UnexpectedModelBehavior as err:
            self._lost["invalid"] += 1
            log.info("%s: no valid answer: %s", record.sha256[:12], str(err).splitlines()[0][:200])
            return None
        except ModelAPIError as err:
            self._failed(err)
            return None
        finally:
            self._count(usage)
        return answer

    def _count(self, usage: Any) -> None:
        self._turns += usage.requests
        self._invalid += max(0, usage.requests - 1)
        given = usage.input_tokens
        if usage.requests and not given:  # an endpoint that counts none must not be free
            given = usage.requests * UNCOUNTED
        self._input += given
        self._output += usage.output_tokens
        usd = None if usage.cost is None else float(usage.cost)
        self._budget.spend(given + usage.output_tokens, usd)

    def _failed(self, err: Exception) -> None:
        """One question that got no answer; raises where no other would get one either."""
        from pydantic_ai.exceptions import (
            ModelAuthenticationError,
            ModelNotFoundError,
            ModelQuotaExceededError,
            ModelRequestRejectedError,
        )

        what = f"{type(err).__name__} {getattr(err, 'status_code', '')}".strip()
        if isinstance(err, ModelAuthenticationError | ModelNotFoundError):
            self._raise(ConfigurationError, what, "correct the connection or the model's name", err)
        if isinstance(err, ModelQuotaExceededError):
            self._lost["quota"] += 1
            if not self._ended:
                self._end("quota")
            return
        self._silent += 1
        rejected = isinstance(err, ModelRequestRejectedError)
        self._lost["rejected" if rejected else "unavailable"] += 1
        if self._silent >= DOWN_AFTER and rejected:
            advice = "it may know no schemas (output) or no pictures (vision)"
            self._raise(ConfigurationError, what, advice, err)
        if self._silent >= DOWN_AFTER:
            self._raise(ServiceUnavailable, what, "answers so far are kept; try again later", err)

    def _raise(self, kind: type[Exception], what: str, advice: str, cause: Exception) -> NoReturn:
        host = urlsplit(self.ctx.settings.llm_url).netloc
        msg = f"LLM endpoint {host} gives no labels ({what}); {advice}"
        raise kind(msg) from cause

    def _check(self, answer: Answer) -> Answer:
        """Last word on an answer: its themes must be a path of the taxonomy."""
        from pydantic_ai import ModelRetry

        try:
            answer.path(self.taxonomy)
        except ValueError as err:
            raise ModelRetry(str(err)) from err
        return answer

    def _path_of(self, answer: Answer) -> tuple[str, ...] | None:
        try:
            return answer.path(self.taxonomy)
        except ValueError:
            return None

    def _picture(self, record: CleanRecord) -> Any:
        """The picture as it is sent: decoded and encoded anew, so no metadata goes with it."""
        from pydantic_ai import BinaryContent

        from lora_factory.imaging.decode import decode

        image = decode((self.folder / record.file_name).read_bytes())
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return BinaryContent(data=buffer.getvalue(), media_type="image/png")

    def _use(self, model: ChatModel, settings: Settings, seconds: float) -> LlmUse:
        budget = self._budget
        return LlmUse(
            model=model.name,
            endpoint=urlsplit(settings.llm_url).netloc,
            vision=self.entry.vision,
            answered=len(self._answers) - self._cached,
            cached=self._cached,
            fallback=dict(self._lost),
            corrected=self._invalid,
            requests=model.requests,
            retries=max(0, model.requests - self._turns),
            input_tokens=self._input,
            output_tokens=self._output,
            cost_usd=budget.usd if budget.priced else None,
            seconds=seconds,
        )


Question = tuple[int, "CleanRecord", str]


class Pace:
    """At most so many starts a minute, evenly spaced; 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Until the next start is due."""
        now = time.monotonic()
        due = max(now, self._next)
        self._next = due + self._gap
        if due > now:
            await asyncio.sleep(due - now)
