"""What every deployment target promises, whatever it is: one suite, run on each of them.

A target joins with a rig of its own (fixture ``rig``): a real server, or one that speaks the
service's protocol, on loopback. A test module takes the tests in with ``from … import *``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest

from hub_repositories import TOKEN
from lora_factory.deploy.stage import deploy
from lora_factory.deploy.target import Release, Target
from lora_factory.errors import ReleaseError, ServiceUnavailable


class Rig(Protocol):
    """A target, and the place behind it."""

    target: Target

    def release(self, name: str, seed: int) -> Release:
        """A good one; another one for each seed."""

    def spoil(self, release: Release) -> Release:
        """The same, or as it now is at its place, so that its smoke test fails."""

    def live(self, name: str) -> str | None:
        """Version that users get, asked as they do."""

    def state(self) -> Any:
        """All that there is, to compare."""

    def lose_after(self, changes: int | None) -> None:
        """The place stops answering after so many changes; None: it answers again."""


@contextmanager
def lost(rig: Rig, changes: int) -> Iterator[None]:
    rig.lose_after(changes)
    try:
        yield
    finally:
        rig.lose_after(None)


def test_a_plan_changes_nothing_and_says_what_is_live(rig: Rig) -> None:
    first, second = rig.release("planned", 1), rig.release("planned", 5)
    before = rig.state()
    assert rig.target.plan(first).live is None
    assert rig.state() == before
    deploy(first, rig.target)
    before = rig.state()
    assert rig.target.plan(second).live == first.model.version
    assert rig.state() == before


def test_each_step_twice_is_once(rig: Rig) -> None:
    deploy(rig.release("twice", 1), rig.target)
    second = rig.release("twice", 5)
    rig.target.apply(second)
    once = rig.state()
    rig.target.apply(second)
    assert rig.state() == once
    assert rig.live("twice") == rig.release("twice", 1).model.version  # not yet promoted
    rig.target.smoke(second)
    promoted = rig.target.promote(second)
    once = rig.state()
    assert rig.target.promote(second) == promoted
    assert rig.state() == once
    assert promoted.previous == rig.release("twice", 1).model.version
    report = deploy(second, rig.target)
    assert (report.version, report.previous) == (second.model.version, promoted.previous)
    assert rig.state() == once


def test_a_failed_smoke_test_leaves_the_last_good_one(rig: Rig) -> None:
    good = rig.release("smoked", 1)
    deploy(good, rig.target)
    bad = rig.spoil(rig.release("smoked", 5))
    with pytest.raises(ReleaseError, match=f"live: {good.model.version}") as err:
        deploy(bad, rig.target)
    assert "\n" not in str(err.value)
    assert TOKEN not in str(err.value)
    assert rig.live("smoked") == good.model.version
    with pytest.raises(ReleaseError, match="live: none"):
        deploy(rig.spoil(rig.release("smoked-first", 5)), rig.target)
    assert rig.live("smoked-first") is None


def test_a_promoted_one_can_be_taken_back(rig: Rig) -> None:
    good, bad = rig.release("back", 1), rig.release("back", 5)
    deploy(good, rig.target)
    deploy(bad, rig.target)
    plan = rig.target.plan(bad)
    for _ in range(2):  # the second time it is not live any more
        rig.target.rollback(
            bad, plan if rig.live("back") == bad.model.version else rig.target.plan(bad)
        )
        assert rig.live("back") == good.model.version


def check_kills(rig: Rig, after: str) -> None:
    """The place goes away after each change in turn: as good as killed, nothing is undone."""
    good = rig.release("killed", 1)
    deploy(good, rig.target)
    seen = set()
    for changes in itertools.count():
        second, third = rig.release("killed", 5), rig.release("killed", 6)
        try:
            with lost(rig, changes):
                deploy(second, rig.target)
        except ServiceUnavailable:
            seen.add(rig.live("killed"))
            assert rig.live("killed") in {good.model.version, second.model.version}
            finished = False
        else:
            finished = True
        last = second if after == "the same" else third
        report = deploy(last, rig.target)
        assert rig.live("killed") == last.model.version == report.version
        assert report.previous in {good.model.version, second.model.version}
        assert not [name for name in str(rig.state()).split("'") if name.startswith("candidate-")]
        if finished:
            break
        deploy(good, rig.target)  # as it was
    assert good.model.version in seen
    assert changes >= 2
