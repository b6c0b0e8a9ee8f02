"""Pictures that are fetched later: jobs, kept on disk so that a restart loses none.

A job that is waiting or being drawn when the service stops is drawn after its next start.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from fastapi import HTTPException
from pydantic import Field, ValidationError

from lora_factory.contracts.base import Contract
from lora_factory.contracts.registry import Model
from lora_factory.contracts.serving import (
    Failure,
    GenerateRequest,
    GenerateResponse,
    Job,
)
from lora_factory.errors import FactoryError, ServiceUnavailable
from lora_factory.serve.drawing import Wish, finish, submit

if TYPE_CHECKING:
    from lora_factory.serve.engine import Ticket
    from lora_factory.serve.services import Services

log = logging.getLogger(__name__)
KEPT_SECONDS = 3600.0  # a finished job's picture
PATIENCE = 3600.0  # a job may wait so long for its turn
READY = 0.2  # seconds between looks whether the engine has loaded


class Record(Contract):
    """A job as it lies on disk."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    owner: str
    request: GenerateRequest
    model: Model | None
    seed: int
    created_at: datetime
    state: Literal["waiting", "done", "failed"] = "waiting"
    result: GenerateResponse | None = None
    failure: Failure | None = None


class Jobs:
    """The jobs of one app.

    Args:
        folder: where they lie, one file each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._tickets: dict[str, Ticket] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, wish: Wish, owner: str, wired: Services) -> Job:
        """Queue a picture, for whoever knows the job's id and is its owner.

        Raises: as :meth:`lora_factory.serve.engine.Engine.draw`.
        """
        record = Record(
            id=uuid.uuid4().hex,
            owner=owner,
            request=wish.body,
            model=wish.model,
            seed=wish.seed,
            created_at=datetime.now(UTC),
        )
        ticket = submit(wish, wired, time.monotonic() + PATIENCE)
        await asyncio.to_thread(self._write, record)
        await asyncio.to_thread(self._forget_old)
        self._follow(record, ticket, wired)
        return self._seen(record)

    async def get(self, identity: str, owner: str) -> Job | None:
        """A job with its progress, or None."""
        record = await asyncio.to_thread(self._read, identity)
        return self._seen(record) if record is not None and record.owner == owner else None

    async def cancel(self, identity: str, owner: str) -> bool:
        """Give a job up, drawn or not; False: there is none."""
        record = await asyncio.to_thread(self._read, identity)
        if record is None or record.owner != owner:
            return False
        ticket = self._tickets.pop(identity, None)
        if ticket is not None:
            ticket.abandon()
        for state in ("waiting", "ended"):
            self._path(identity, state).unlink(missing_ok=True)
        return True

    async def resume(self, wired: Services) -> None:
        """Queue again what was waiting when the service stopped; drop what is too old."""
        records = await asyncio.to_thread(self._left)
        for record in records:
            wish = Wish(record.request, record.model, record.seed)
            while True:
                try:
                    ticket = submit(wish, wired, time.monotonic() + PATIENCE)
                except (queue.Full, ServiceUnavailable) as err:  # still loading: it waits
                    log.debug("job %s: %s", record.id, err)
                    await asyncio.sleep(READY)
                else:
                    break
            self._follow(record, ticket, wired)
        if records:
            log.info("%d jobs go on that were waiting when the service stopped", len(records))

    async def settle(self) -> None:
        """Wait until what was drawn is written down."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside

    def _follow(self, record: Record, ticket: Ticket, wired: Services) -> None:
        self._tickets[record.id] = ticket
        task = asyncio.get_running_loop().create_task(self._end(record, ticket, wired))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, record: Record, ticket: Ticket, wired: Services) -> None:
        """Wait for a job's picture and write it down."""
        wish = Wish(record.request, record.model, record.seed)
        try:
            drawn = await asyncio.wrap_future(ticket.future)
            result = await finish(drawn, wish, ticket.since, wired)
            ended = record.model_copy(update={"state": "done", "result": result})
        except asyncio.CancelledError:
            return  # given up, or the service stops and goes on with it later
        except HTTPException as err:  # a guard refused it
            ended = record.model_copy(update=_failed(cast("Failure", err.detail)))
        except FactoryError as err:
            if wired.stopping.is_set():
                return
            ended = record.model_copy(update=_failed(Failure(error=str(err))))
        except Exception:
            # The one boundary: a job that broke must say so, and must not be asked for ever.
            log.exception("job %s", record.id)
            ended = record.model_copy(
                update=_failed(Failure(error="internal error; the log says more"))
            )
        if self._tickets.pop(record.id, None) is not None:
            await asyncio.to_thread(self._write, ended)

    def _seen(self, record: Record) -> Job:
        ticket = self._tickets.get(record.id)
        running = record.state == "waiting" and ticket is not None and ticket.future.running()
        return Job(
            id=record.id,
            state="running" if running else record.state,
            created_at=record.created_at,
            step=ticket.step if ticket else 0,
            steps=ticket.settings.steps if ticket else 0,
            result=record.result,
            failure=record.failure,
        )

    def _path(self, identity: str, state: Literal["waiting", "ended"]) -> Path:
        return self._folder / f"{identity}.{state}.json"

    def _write(self, record: Record) -> None:
        state: Literal["waiting", "ended"] = "waiting" if record.state == "waiting" else "ended"
        path = self._path(record.id, state)
        draft = path.with_suffix(".part")
        draft.write_text(record.model_dump_json(), encoding="utf-8")
        draft.replace(path)
        if state == "ended":
            self._path(record.id, "waiting").unlink(missing_ok=True)

    def _read(self, identity: str) -> Record | None:
        for state in ("ended", "waiting"):
            path = self._path(identity, state)
            try:
                return Record.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValidationError) as err:
                path.unlink(missing_ok=True)
                msg = f"job {identity} can't be read; ask for the picture again"
                raise ServiceUnavailable(msg) from err
        return None

    def _left(self) -> list[Record]:
        """Jobs that waited when the service stopped, the oldest first."""
        found = []
        for path in self._folder.glob("*.waiting.json"):
            try:
                record = self._read(path.name.partition(".")[0])
            except ServiceUnavailable as err:  # a damaged file: removed
                log.warning("%s", err)
                continue
            if record is not None and record.state == "waiting":
                found.append(record)
        return sorted(found, key=lambda record: record.created_at)

    def _forget_old(self) -> None:
        """Remove jobs that ended an hour ago."""
        oldest = time.time() - KEPT_SECONDS
        for path in self._folder.glob("*.ended.json"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


def _failed(failure: Failure) -> dict[str, object]:
    return {"state": "failed", "failure": failure}
