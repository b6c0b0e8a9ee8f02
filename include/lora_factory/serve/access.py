"""Who may do what, and how often: API keys, their scopes, a token bucket each."""

from __future__ import annotations

import hmac
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_factory.contracts.registry import ApiKey, Scope

if TYPE_CHECKING:
    from lora_factory.store.catalog import Catalog

EVERYTHING: frozenset[Scope] = frozenset({"generate", "feedback", "admin"})
ANYBODY: frozenset[Scope] = frozenset({"generate", "feedback"})
OPERATOR_PER_MINUTE = 100_000
REMEMBERED = 4096  # keys and callers at a time; the ones not seen for longest are forgotten
FRESH = 5.0  # seconds a key is trusted without asking the catalog: as long as a revoked one lives


class Denied(Exception):
    """A request is refused. ``status`` 401: who are you, 403: not you, 429: not so often."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Caller:
    """Who asks. ``id`` is a key's id, ``operator``, or ``anybody`` and an address."""

    id: str
    scopes: frozenset[Scope]
    per_minute: int
    anonymous: bool = False

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope; an administrator has all."""
        return scope in self.scopes or "admin" in self.scopes


class Bucket:
    """A token bucket: a minute's requests at once, refilled steadily (burst = rate)."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.rate, self.size = per_minute / 60, float(per_minute)
        self.tokens, self.at = self.size, now

    def take(self, now: float) -> float:
        """Take a token; returns 0, or the seconds until there is one."""
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return 0.0


class Access:
    """Recognises callers and counts their requests; threads may share it.

    Args:
        catalog: keeps the keys.
        token: the operator's own key (environment); empty: there is none.
        public: requests a minute that an address may send without a key; 0: none.
    """

    def __init__(self, catalog: Catalog, token: str, public: int) -> None:
        self._catalog, self._token, self._public = catalog, token, public
        self._keys: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def caller(self, authorization: str | None, address: str) -> Caller:
        """Who sends this ``Authorization`` header; asks the catalog for a key not seen lately.

        Raises:
            Denied: the key is not known here, or there must be one.
            ServiceUnavailable: the catalog did not answer.
        """
        if not authorization:
            if not self._public:
                raise Denied(401, "give an API key as Bearer token")
            return Caller(f"anybody {address}", ANYBODY, self._public, anonymous=True)
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer":
            raw = given.encode("utf-8", "surrogatepass")
            if self._token and hmac.compare_digest(raw, self._token.encode()):
                return Caller("operator", EVERYTHING, OPERATOR_PER_MINUTE)
            if (key := self._known(given)) is not None:
                return Caller(key.id, frozenset(key.scopes), key.per_minute)
        raise Denied(401, "this API key is unknown or revoked; ask the operator for one")

    def admit(self, caller: Caller, scope: Scope) -> None:
        """Let a request through, or not.

        Raises:
            Denied: the caller lacks the scope, or asks too often.
        """
        if not caller.may(scope):
            if caller.anonymous:
                raise Denied(401, f"give an API key with scope {scope} as Bearer token")
            raise Denied(403, f"this API key has no scope {scope}; ask the operator for one")
        with self._lock:
            wait = self._take(caller, time.monotonic())
        if wait:
            reason = f"more than {caller.per_minute} requests a minute; slow down"
            raise Denied(429, reason, math.ceil(wait))

    def _take(self, caller: Caller, now: float) -> float:
        bucket = self._buckets.get(caller.id)
        if bucket is None or bucket.size != caller.per_minute:
            bucket = self._buckets[caller.id] = Bucket(caller.per_minute, now)
        self._buckets.move_to_end(caller.id)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket.take(now)

    def _known(self, given: str) -> ApiKey | None:
        since, key = self._keys.get(given, (-math.inf, None))
        if key is not None and time.monotonic() - since <= FRESH:
            return key
        key = self._catalog.api_key(given)
        with self._lock:
            self._keys.pop(given, None)
            if key is not None:
                self._keys[given] = (time.monotonic(), key)
                while len(self._keys) > REMEMBERED:
                    self._keys.popitem(last=False)
        return key
