"""Decode hostile bytes in a process of their own, with limits on memory and time.

A decoder with a hole in it is then not in the process that holds connections and credentials:
the child gets none of the deployment's environment, can write no file, and answers with one line of
JSON that is parsed and checked (no pickle). A child that dies, hangs or runs out of memory
costs one picture, and the next one gets a new child.

The protocol on its pipes: 8 bytes of length (big endian) and the bytes; back comes
``{"width": …, "height": …, "hash": …}`` or ``{"reason": …, "detail": …}`` and a line feed.
"""

from __future__ import annotations

import logging
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from pydantic import Field, TypeAdapter

from lora_factory.contracts.base import Contract
from lora_factory.imaging.decode import ImageRejected, Reason, decode
from lora_factory.imaging.hashes import picture_hash

log = logging.getLogger(__name__)
SECONDS = 20.0
"""Time for one picture, first start of the child included."""
MEMORY = 1 << 30
"""Bytes beyond what the child holds before its first picture: six times a 50-megapixel RGB one."""
LENGTH = struct.Struct(">Q")
ANSWER = 4096
ROOT = Path(__file__).resolve().parents[2]


class Measured(Contract):
    """A picture that decodes."""

    width: int = Field(ge=1, description="Pixels")
    height: int = Field(ge=1, description="Pixels")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="``hashes.picture_hash``, on white")


class Unusable(Contract):
    """Bytes that don't."""

    reason: Reason
    detail: str = Field("", max_length=200)


ANSWERS: TypeAdapter[Measured | Unusable] = TypeAdapter(Measured | Unusable)


class DecodingProcess:
    """One child that decodes one picture at a time; safe to share between threads.

    Args:
        seconds: for one picture, by the clock.
        memory: bytes a picture may take while it is decoded.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._seconds, self._memory = seconds, memory
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def measure(self, data: bytes) -> Measured:
        """Size and perceptual hash of the picture the bytes decode to.

        Raises:
            ImageRejected: as ``decode`` says, or ``corrupt`` where the child didn't survive it.
        """
        with self._lock:
            try:
                answer = self._ask(data)
            except (OSError, ValueError) as err:
                self._end()
                log.warning("a picture of %d bytes cost a decoder: %s", len(data), err)
                raise ImageRejected(reason="corrupt", detail=f"decoder: {err}") from err
        if isinstance(answer, Unusable):
            raise ImageRejected(reason=answer.reason, detail=answer.detail)
        return answer

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _ask(self, data: bytes) -> Measured | Unusable:
        child = self._child or self._start()
        if child.stdin is None or child.stdout is None:
            msg = "it has no pipes"
            raise ValueError(msg)
        child.stdin.write(LENGTH.pack(len(data)) + data)
        child.stdin.flush()
        ready, _, _ = select.select([child.stdout], [], [], self._seconds)
        if not ready:
            msg = f"no answer in {self._seconds:g} s"
            raise ValueError(msg)
        line = child.stdout.readline(ANSWER)
        if not line.endswith(b"\n"):
            msg = f"it died (status {child.poll()})"
            raise ValueError(msg)
        return ANSWERS.validate_json(line)

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
            [sys.executable, "-m", __name__, str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # bytes that nobody took
                    log.debug("decoder ended with bytes unread")


def serve(incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    """The child: one answer a picture, until the pipe is closed."""
    while len(head := incoming.read(LENGTH.size)) == LENGTH.size:
        data = incoming.read(LENGTH.unpack(head)[0])
        answer: Measured | Unusable
        try:
            image = decode(data)
            answer = Measured(width=image.width, height=image.height, hash=picture_hash(image))
        except ImageRejected as err:
            answer = Unusable(reason=err.reason, detail=err.detail[:200])
        except MemoryError:
            answer = Unusable(reason="too_many_pixels", detail="out of memory while decoding")
        outgoing.write(answer.model_dump_json().encode() + b"\n")
        outgoing.flush()


def limit(memory: int) -> None:
    """Bound the memory this process may still take, and let it write no file."""
    import resource

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    if sys.platform == "linux":
        limit(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
