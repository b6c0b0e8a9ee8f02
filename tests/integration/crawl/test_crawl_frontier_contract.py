"""What both frontiers keep to, each test on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from frontiers import Rig, image, page, redis_rig, sqlite_rig

from lora_factory.contracts.crawl import WorkerStats
from lora_factory.crawl.frontier import Frontier, Limits
from lora_factory.crawl.tasks import Lease, Settled, load
from lora_factory.errors import DataError, ServiceUnavailable
from valkey_server import ValkeyServer

pytestmark = pytest.mark.integration
LIMITS = Limits(max_pages=100, max_images=100, default_delay=0.0)
Scenario = Callable[[Frontier, Rig], Awaitable[None]]


@pytest.fixture(params=["sqlite", "redis"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "sqlite":
        yield sqlite_rig(tmp_path / "frontier.sqlite")
    else:
        yield redis_rig(request.getfixturevalue("valkey").url)


def play(rig: Rig, scenario: Scenario, limits: Limits = LIMITS) -> None:
    """Run a scenario on an opened frontier."""

    async def run() -> None:
        frontier = rig.view(limits)
        await frontier.open()
        try:
            await scenario(frontier, rig)
        finally:
            await frontier.close()

    asyncio.run(run())


def urls(leases: list[Lease]) -> list[str]:
    return [lease.task.url for lease in leases]


async def settle(frontier: Frontier, leases: list[Lease], *, counts: bool = True) -> int:
    return await frontier.ack([Settled(token=lease.token, counts=counts) for lease in leases])


def test_best_first_and_first_come_among_equals(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=10)
        scores = [("/low", 0.1), ("/high", 0.9), ("/mid", 0.5), ("/mid2", 0.5), ("/neg", -0.25)]
        assert await f.add([page(f"http://a{path}", score) for path, score in scores]) == 5
        found = urls(await f.lease("w", "page", 10))
        assert found == [f"http://a{p}" for p in ("/high", "/mid", "/mid2", "/low", "/neg")]

    play(rig, scenario)


def test_of_equals_the_host_that_waited_longest_is_asked(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        for host in "abc":
            await f.set_host(host, delay=0.5, concurrency=9)
        await f.add([page(f"http://{host}/{n}") for host in "abc" for n in range(3)])
        asked = []
        for _ in range(6):
            rig.clock.now += 0.25
            (lease,) = await f.lease("w", "page", 1)
            asked.append(lease.task.url)
        assert asked == [f"http://{host}/{n}" for n in (0, 1) for host in "abc"]
        await f.add([page("http://c/better", 0.501)])  # its host's turn would come last
        rig.clock.now += 1
        assert urls(await f.lease("w", "page", 2)) == ["http://c/better", "http://a/2"]

    play(rig, scenario)


def test_a_url_is_queued_once(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        assert await f.add([page("http://a/1"), page("http://a/1", 0.9)]) == 1
        (lease,) = await f.lease("w", "page", 5)
        await settle(f, [lease])
        assert await f.add([page("http://a/1")]) == 0
        assert await f.add([image("http://a/1")]) == 1  # as an image it's something else
        assert await f.lease("w", "page", 5) == []

    play(rig, scenario)


def test_tasks_come_back_as_they_went(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        sent = image('http://a/ü.png?a=%20"\n', 0.25)
        await f.add([sent])
        (lease,) = await f.lease("w", "image", 1)
        assert lease.task == sent.task

    play(rig, scenario)


def test_budgets_hold_what_is_done_and_what_is_out(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=50)
        await f.add([page(f"http://a/{n}") for n in range(9)])
        first = await f.lease("w", "page", 50)
        assert len(first) == 3
        await settle(f, first[:1], counts=False)  # makes room for another
        (more,) = await f.lease("w", "page", 50)
        await settle(f, [*first[1:], more])
        assert await f.lease("w", "page", 50) == []
        counts = await f.counts()
        assert (counts["page"].done, counts["page"].in_flight, counts["page"].queued) == (3, 0, 5)
        assert await f.finished()

    play(rig, scenario, Limits(3, 100, 0.0))


def test_a_hosts_budget_is_exact_and_what_is_left_of_it_holds_nobody_up(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=50)
        await f.add([page(f"http://a/{n}") for n in range(6)] + [page("http://b/1", 0.1)])
        first = await f.lease("w", "page", 50)
        assert urls(first) == ["http://a/0", "http://a/1", "http://b/1"]
        await settle(f, first[:1], counts=False)  # makes room for another
        more = await f.lease("w", "page", 50)
        assert urls(more) == ["http://a/2"]
        await settle(f, [*first[1:], *more])
        assert await f.add([page("http://a/late"), image("http://a/i.png")]) == 2
        assert await f.lease("w", "page", 50) == []
        (picture,) = await f.lease("w", "image", 50)
        await settle(f, [picture])
        counts = await f.counts()
        assert (counts["page"].done, counts["page"].queued) == (3, 0)
        assert await f.finished()
        assert [entry.reason async for entry in f.leftovers()] == ["host_budget"] * 4

    play(rig, scenario, Limits(100, 100, 0.0, pages_per_host=2))


def test_no_page_while_enough_images_are_known(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=50)
        await f.add([page("http://a/1"), image("http://a/1.png"), image("http://a/2.png")])
        assert await f.lease("w", "page", 5) == []
        out = await f.lease("w", "image", 5)
        assert await f.lease("w", "page", 5) == []
        await settle(f, out[:1], counts=False)
        assert urls(await f.lease("w", "page", 5)) == ["http://a/1"]  # one more is wanted

    play(rig, scenario, Limits(100, 2, 0.0))


def test_a_host_nobody_knows_is_asked_one_request_at_a_time(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.add([page(f"http://a/{n}") for n in range(3)])
        (lease,) = await f.lease("w", "page", 5)
        rig.clock.now += 3
        assert await f.lease("w", "page", 5) == []  # still busy
        rig.clock.now += 3
        assert len(await f.lease("w", "page", 5, freed={lease.token: True})) == 1
        assert await f.lease("w", "page", 5, freed={lease.token: True}) == []  # freed once

    play(rig, scenario, Limits(100, 100, 2.0))


def test_delay_and_concurrency_hold_for_pages_and_images_together(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=4, concurrency=2)
        await f.add([page(f"http://a/{n}") for n in range(3)] + [image("http://a/i.png", 0.9)])
        await f.add([page("http://b/1", 0.1)])
        (first,) = await f.lease("w", "image", 5)
        assert urls(await f.lease("w", "page", 5)) == ["http://b/1"]  # a must wait
        rig.clock.now += 3.9
        assert await f.lease("w", "page", 5) == []
        rig.clock.now += 0.2
        (second,) = await f.lease("w", "page", 5)
        rig.clock.now += 5
        assert await f.lease("w", "page", 5) == []  # two are under way
        assert len(await f.lease("w", "page", 5, freed={first.token: True})) == 1
        assert await settle(f, [first, second]) == 2

    play(rig, scenario)


def test_a_longer_delay_counts_from_the_last_request(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.add([page("http://a/1"), page("http://a/2")])
        (lease,) = await f.lease("w", "page", 5)
        await f.set_host("a", delay=10, concurrency=1)
        rig.clock.now += 9
        assert await f.lease("w", "page", 5, freed={lease.token: True}) == []
        rig.clock.now += 1.5
        assert len(await f.lease("w", "page", 5)) == 1

    play(rig, scenario, Limits(100, 100, 1.0))


def test_a_request_that_no_host_saw_takes_no_hosts_time(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=10, concurrency=2)
        await f.add([page(f"http://a/{n}") for n in range(5)])
        (refused,) = await f.lease("w", "page", 5)
        (asked,) = await f.lease("w", "page", 5, freed={refused.token: False})
        rig.clock.now += 10.1
        (second,) = await f.lease("w", "page", 5)
        # Another was asked since: the earlier one's time is not given back.
        assert await f.lease("w", "page", 5, freed={asked.token: False}) == []
        assert len(await f.lease("w", "page", 5, freed={second.token: False})) == 1

    play(rig, scenario)


def test_an_expired_lease_comes_back_and_its_token_is_void(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.add([page("http://a/1")])
        (lost,) = await f.lease("dead", "page", 5)
        rig.clock.now += 29
        assert await f.lease("w", "page", 5) == []
        rig.clock.now += 2
        (again,) = await f.lease("w", "page", 5)
        assert (again.task, again.tries) == (lost.task, 2)
        assert await settle(f, [lost]) == 0
        assert (await f.counts())["page"].in_flight == 1
        assert await settle(f, [again]) == 1
        assert (await f.counts())["page"].done == 1
        assert await f.finished()

    play(rig, scenario)


def test_a_task_whose_workers_die_is_given_up_much_later(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.add([page("http://a/1")])
        for tries in range(1, 6):
            (lease,) = await f.lease("w", "page", 5)
            assert lease.tries == tries
            rig.clock.now += 31
        assert await f.lease("w", "page", 5) == []
        (left,) = [entry async for entry in f.leftovers()]
        assert (left.reason, left.detail) == ("dead_letter", "lease_expired, 5 tries")

    play(rig, scenario, Limits(100, 100, 0.0, max_tries=2, max_lost=5))


def test_heartbeats_prolong_only_what_they_name(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=5)
        await f.add([page("http://a/1"), page("http://a/2")])
        kept, lost = await f.lease("w", "page", 5)
        rig.clock.now += 20
        await f.heartbeat("w", WorkerStats(), held=[kept.token])
        rig.clock.now += 20
        assert await f.reclaim() == 1
        assert await settle(f, [kept, lost]) == 1

    play(rig, scenario)


def test_given_back_waits_longer_each_time_and_dies_in_the_end(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.add([page("http://a/1")])
        for wait in (2, 4):
            (lease,) = await f.lease("w", "page", 5)
            await f.nack([lease.token], "storage_full")
            rig.clock.now += wait - 0.1
            assert await f.lease("w", "page", 5) == []
            assert not await f.finished()
            rig.clock.now += 0.2
        (lease,) = await f.lease("w", "page", 5)
        await f.nack([lease.token], "storage_full")
        rig.clock.now += 1000
        assert await f.lease("w", "page", 5) == []
        assert await f.finished()
        (left,) = [entry async for entry in f.leftovers()]
        assert (left.task.url, left.reason, left.detail) == (
            "http://a/1", "dead_letter", "storage_full, 3 tries"
        )  # fmt: skip
        assert (await f.status()).dead == 1

    play(rig, scenario, Limits(100, 100, 0.0, max_tries=3))


def test_leftovers_are_what_nobody_fetched(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.add([page(f"http://a/{n}") for n in range(900)] + [image("http://a/i.png")])
        (lease,) = await f.lease("w", "page", 1)
        await settle(f, [lease])
        for _ in range(2):  # they stay there
            left = [entry async for entry in f.leftovers()]
            assert {entry.task.url for entry in left} == {
                "http://a/i.png", *(f"http://a/{n}" for n in range(1, 900))
            }  # fmt: skip
            assert {(entry.reason, entry.detail) for entry in left} == {
                ("over_budget", "not fetched")
            }

    play(rig, scenario)


def test_claims_go_to_the_first(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        key = "ab" * 32
        assert await f.claim(key, "http://a/1") == "http://a/1"
        assert await f.claim(key, "http://a/2") == "http://a/1"
        assert await f.claim(key, "http://a/1") == "http://a/1"  # a second try keeps it

    play(rig, scenario)


def test_a_redirects_target_is_nobodys_when_it_was_queued_itself(rig: Rig) -> None:
    from lora_factory.crawl.tasks import seen_key

    async def scenario(f: Frontier, _: Rig) -> None:
        await f.add([page("http://a/1")])
        assert await f.claim(seen_key("page", "http://a/1"), "http://a/old") == ""
        assert await f.claim(seen_key("page", "http://a/2"), "http://a/old") == "http://a/old"
        assert await f.add([page("http://a/2")]) == 0  # it was fetched under another name

    play(rig, scenario)


def test_what_an_ack_found_is_queued(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.add([page("http://a/1")])
        (lease,) = await f.lease("w", "page", 5)
        assert not await f.finished()
        settled = [Settled(token=lease.token, counts=True)]
        await f.ack(settled, [page(f"http://a/{n}") for n in range(500)])
        assert (await f.counts())["page"].queued == 499

    play(rig, scenario)


def test_status_tells_people_what_goes_on(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=4, concurrency=2)
        await f.add([page(f"http://a/{n}") for n in range(3)] + [image("http://b/i.png")])
        (lease,) = await f.lease("w1", "page", 5)
        await f.heartbeat("w1", WorkerStats(pages=7, rate=1.5), [lease.token])
        rig.clock.now += 1
        status = await f.status()
        assert (status.pages.queued, status.pages.in_flight, status.images.queued) == (2, 1, 1)
        host = status.hosts[0]
        assert (host.host, host.queued, host.in_flight, host.delay, host.concurrency) == (
            "a", 2, 1, 4, 2
        )  # fmt: skip
        assert host.wait == pytest.approx(3, abs=0.01)
        (worker,) = status.workers
        assert (worker.worker, worker.leases, worker.pages, worker.stalled) == ("w1", 1, 7, False)
        assert worker.last_seen == pytest.approx(1, abs=0.01)
        assert (status.hosts_total, status.rate, status.finished) == (2, 1.5, False)
        rig.clock.now += 30
        await f.ack([Settled(token=lease.token, counts=False, reason="not_found")])
        status = await f.status()
        assert status.workers[0].stalled
        assert status.idle == 0
        assert (status.rate, status.reasons) == (0, {"not_found": 1})

    play(rig, scenario)


def test_dropped_is_forgotten(rig: Rig) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.add([page("http://a/1")])
        await f.drop()
        await f.open()
        assert (await f.counts())["page"].queued == 0
        assert await f.add([page("http://a/1")]) == 1

    play(rig, scenario)


def test_a_crawl_that_redis_does_not_know(valkey: ValkeyServer) -> None:
    async def run() -> None:
        frontier = redis_rig(valkey.url).view(LIMITS)
        with pytest.raises(DataError, match="knows no crawl"):
            await frontier.status()
        with pytest.raises(ServiceUnavailable, match="run the crawl again"):
            await frontier.lease("w", "page", 1)
        await frontier.close()

    asyncio.run(run())


def test_the_file_outlives_its_process(tmp_path: Path) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.add([page("http://a/1"), page("http://a/2")])
        await f.lease("w", "page", 1)

    rig = sqlite_rig(tmp_path / "frontier.sqlite")
    play(rig, scenario)

    async def after(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=5)
        assert urls(await f.lease("w2", "page", 5)) == ["http://a/1", "http://a/2"]

    play(sqlite_rig(tmp_path / "frontier.sqlite"), after)


def test_payloads_are_json(valkey: ValkeyServer) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.add([image("http://a/i.png")])
        with redis.Redis.from_url(valkey.url) as client:
            prefix: Any = f._prefix  # type: ignore[attr-defined]
            (text,) = client.hvals(f"{prefix}task")
        assert load(text.split(b" ", 4)[4]).url == "http://a/i.png"

    play(redis_rig(valkey.url), scenario)


def test_redis_keys_go_by_themselves(valkey: ValkeyServer) -> None:
    async def scenario(f: Frontier, _: Rig) -> None:
        await f.add([page("http://a/1"), image("http://b/i.png")])
        await f.lease("w", "image", 1)
        await f.heartbeat("w", WorkerStats())
        with redis.Redis.from_url(valkey.url) as client:
            prefix: Any = f._prefix  # type: ignore[attr-defined]
            names = list(client.scan_iter(f"{prefix}*"))
            assert len(names) > 5
            assert all(client.ttl(name) > 0 for name in names)

    play(redis_rig(valkey.url), scenario)


def test_a_host_that_wants_a_rest_gets_it_from_all(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=0.5, concurrency=2)
        await f.add([page(f"http://a/{n}") for n in range(4)] + [page("http://b/")])
        (first,) = await f.lease("w1", "page", 1)
        await f.pause("a", 60)
        await f.pause("a", 5)  # a shorter one doesn't end it
        await f.set_host("a", delay=0, concurrency=5)  # nor does politeness
        assert urls(await f.lease("w2", "page", 9, {first.token: False})) == ["http://b/"]
        (host,) = (h for h in (await f.status()).hosts if h.host == "a")
        assert host.wait == pytest.approx(60, abs=0.1)
        rig.clock.now += 59.9
        assert await f.lease("w2", "page", 9) == []
        rig.clock.now += 0.2
        found = await f.lease("w2", "page", 9)
        assert len(found) == 3
        assert {lease.rest for lease in found} == {0.0}

    play(rig, scenario, replace(LIMITS, lease=1000.0))


def test_a_rest_too_long_to_wait_for_is_told_with_each_task(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=1)
        await f.add([page("http://a/1"), page("http://a/2"), image("http://a/3.png")])
        await f.pause("a", 3600)
        (first,) = await f.lease("w1", "page", 9)
        assert first.rest == pytest.approx(3600, abs=0.1)
        await settle(f, [first], counts=False)
        rig.clock.now += 3500  # what is left can be waited for
        assert await f.lease("w2", "page", 9) == []
        assert await f.lease("w2", "image", 9) == []
        assert not await f.finished()
        rig.clock.now += 101
        (second,) = await f.lease("w2", "page", 9)
        assert second.rest == 0.0

    play(rig, scenario)


def test_tasks_that_nobody_answers_are_no_sign_of_life(rig: Rig) -> None:
    async def scenario(f: Frontier, rig: Rig) -> None:
        await f.set_host("a", delay=0, concurrency=9)
        await f.add([page(f"http://a/{n}") for n in range(3)])
        first, second, third = await f.lease("w", "page", 9)
        for lease, reason, idle in ((first, "not_found", 0), (second, "timeout", 20)):
            rig.clock.now += 20
            await f.ack([Settled(token=lease.token, counts=True, reason=reason)])
            assert (await f.status()).idle == pytest.approx(idle, abs=0.1)
        await f.ack([Settled(token=third.token, counts=True, reason="unreachable")])
        assert (await f.status()).idle == pytest.approx(20, abs=0.1)
        assert (await f.status()).reasons == {"not_found": 1, "timeout": 1, "unreachable": 1}

    play(rig, scenario, replace(LIMITS, lease=1000.0))
