"""A target in a cloud: the logic that all of them share, over :class:`Revisions`.

A version comes as a revision that gets no traffic, is drawn with, and then gets it: a small share
first where the cloud can split it, all of it if its pictures are good. Which versions were
promoted lies beside the releases and is written before the traffic moves. Nothing else is
remembered: what a killed run left is seen in the cloud itself, and the next run takes it away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from lora_factory.contracts.serving import GenerateRequest
from lora_factory.deploy.pictures import compare, picture
from lora_factory.deploy.releases import Releases
from lora_factory.deploy.revisions import Revisions
from lora_factory.deploy.target import Plan, Promotion, Release, Smoke
from lora_factory.errors import ReleaseError

log = logging.getLogger(__name__)
LOOKS = 10  # pictures asked for as users do while a new version has a share of the traffic
LOOK_STEPS = 2


class CloudTarget:
    """See :class:`lora_factory.deploy.target.Target`.

    Args:
        revisions: the cloud.
        releases: bucket that it takes releases from.
        canary: percent of the traffic that tries a version first; 0: none.
        check_stop: called before each step; raises to stop.
    """

    def __init__(
        self,
        revisions: Revisions,
        releases: Releases,
        *,
        canary: int = 10,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = revisions.name
        self._cloud, self._releases = revisions, releases
        self._canary = canary if revisions.splits else 0
        self._check_stop = check_stop

    def plan(self, release: Release) -> Plan:
        """See :class:`lora_factory.deploy.target.Target`."""
        self._check_stop()
        self._cloud.check()
        service, version = self._service(release), release.model.version
        live = self._live(service)
        if live == version:
            return Plan(live=live, steps=(f"{service} serves {version} already; draw with it",))
        steps = [f"upload the release to {self._releases.url}"]
        if version not in self._cloud.revisions(service):
            steps.append(f"make revision {version} of {service} on {self.name}")
        steps.append("draw a picture with it and one with the base, compare them")
        if live and self._canary:
            steps.append(f"give it {self._canary}% of the traffic, and draw as users do")
        kept = f"; {live} stays, to roll back to" if live else ""
        steps.append(f"make it what users of {service} get{kept}")
        return Plan(live=live, steps=tuple(steps))

    def apply(self, release: Release) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        self._check_stop()
        service, version = self._service(release), release.model.version
        live = self._settle(service)
        revision = self._releases.upload(release)
        there = self._cloud.revisions(service)
        if version in there and there[version] != revision.digest:
            self._cloud.delete(service, version)  # another checkpoint of the same training
        self._cloud.publish(service, revision)
        promoted = self._releases.promoted(release.model.name, self.name)
        self._forget(service, {version, live or version, *promoted.versions[-self._cloud.kept :]})

    def smoke(self, release: Release) -> Smoke:
        """See :class:`lora_factory.deploy.target.Target`."""
        self._check_stop()
        service, model = self._service(release), release.model
        there = self._cloud.revisions(service).get(model.version)
        if there != self._releases.upload(release).digest:
            msg = f"smoke test: {service} has {model.version} with other files than these"
            raise ReleaseError(msg)
        request = GenerateRequest(prompt=release.prompt, seed=release.seed)
        base = picture(self._cloud.invoke(service, model.version, request))
        started = time.monotonic()
        request = request.model_copy(update={"adapter": model.name})
        drawn = self._cloud.invoke(service, model.version, request)
        seconds = time.monotonic() - started
        if drawn.version != model.version:
            msg = f"smoke test: {service} draws with {drawn.version}, not with {model.version}"
            raise ReleaseError(msg)
        return compare(picture(drawn), base, seconds)

    def promote(self, release: Release) -> Promotion:
        """See :class:`lora_factory.deploy.target.Target`."""
        self._check_stop()
        service, model = self._service(release), release.model
        live = self._live(service)
        promoted = self._releases.promoted(model.name, self.name).then(live, model.version)
        self._releases.remember(model.name, self.name, promoted)
        if self._canary and live not in {None, model.version}:
            self._try_a_share(release, str(live))
        self._cloud.shift(service, {model.version: 100})
        self._forget(service, set(promoted.versions[-self._cloud.kept :]))
        previous = promoted.before(model.version)
        return Promotion(endpoint=self._cloud.endpoint(service), previous=previous)

    def rollback(self, release: Release, plan: Plan) -> None:
        """See :class:`lora_factory.deploy.target.Target`."""
        service, model = self._service(release), release.model
        if plan.live == model.version:  # it was live already, and has gone bad
            self.back(model.name)
        elif plan.live:
            promoted = self._releases.promoted(model.name, self.name)
            self._cloud.shift(service, {plan.live: 100})
            self._releases.remember(model.name, self.name, promoted.until(plan.live))
        else:
            self._cloud.shift(service, {})
        self._cloud.delete(service, model.version)

    def back(self, adapter: str) -> str:
        """Return to the version before the live one, which stays, without traffic.

        Raises:
            ReleaseError: nothing is live, or no earlier version is there.
        """
        service = self._cloud.service(adapter)
        live, promoted = self._live(service), self._releases.promoted(adapter, self.name)
        before = promoted.before(live) if live else None
        if before is None or before not in self._cloud.revisions(service):
            msg = f"{service} on {self.name} has no earlier version than {live or 'none'}"
            raise ReleaseError(msg)
        self._cloud.shift(service, {before: 100})
        self._releases.remember(adapter, self.name, promoted.until(before))
        return before

    def _service(self, release: Release) -> str:
        return self._cloud.service(release.model.name)

    def _live(self, service: str) -> str | None:
        """What most users get: a version that is being tried has less than half."""
        traffic = self._cloud.traffic(service)
        return max(traffic, key=lambda version: traffic[version]) if traffic else None

    def _settle(self, service: str) -> str | None:
        """End a trial that a killed run left; the live version."""
        live = self._live(service)
        if live is not None:
            self._cloud.shift(service, {live: 100})
        return live

    def _try_a_share(self, release: Release, live: str) -> None:
        """A share of the traffic, until the new version has answered as users ask."""
        service, model = self._service(release), release.model
        self._cloud.shift(service, {live: 100 - self._canary, model.version: self._canary})
        request = GenerateRequest(prompt=release.prompt, adapter=model.name, steps=LOOK_STEPS)
        for _ in range(LOOKS):
            self._check_stop()
            drawn = self._cloud.invoke(service, None, request)
            picture(drawn)
            if drawn.version == model.version:
                return
        log.info("%s: %s did not get its turn in %d pictures", service, model.version, LOOKS)

    def _forget(self, service: str, kept: set[str]) -> None:
        for version in self._cloud.revisions(service).keys() - kept:
            self._cloud.delete(service, version)
