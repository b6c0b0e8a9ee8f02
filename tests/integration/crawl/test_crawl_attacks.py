"""Everything the web may throw at a crawler, in three crawls.

None of it gets through, none of it stops the crawl, and the audit names each with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from crawl_rig import Crawl, WebServer
from hostile_site import IMAGES, PAGES, HostileSite, anchors, answer, moved, page, picture

pytestmark = pytest.mark.integration

# Where a page may try to send us. {port} is a server on this machine that must hear nothing.
PRIVATE = (
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1:{port}/",
    "http://2130706433/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0:{port}/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]:{port}/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://localhost:{port}/",
    "http://LOCALHOST./",
    "http://any.localhost/",
    "http://printer.local/",
    "http://vault.internal/",
    "http://metadata/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://public.example:22/",
    "http://public.example:{port}/",
    "http://public.example:65536/",
    "http://user:secret@public.example/",
    "http://public.example@127.0.0.1:{port}/",
    "file:///etc/passwd",
    "ftp://public.example/",
    "gopher://127.0.0.1:{port}/",
    "data:text/html,<p>icons",
    "javascript:alert(1)",
    "http:///nothing",
    "http://[::1",
    "//",
)
NAMES = {
    "v4.example": "127.0.0.1",
    "v6.example": "::1",
    "mapped.example": "::ffff:10.0.0.1",
    "nat.example": "64:ff9b::7f00:1",
    "sixtofour.example": "2002:7f00:1::",
    "cloud.example": "169.254.169.254",
}


@pytest.fixture(scope="module")
def new_site() -> Iterator[Callable[[], HostileSite]]:
    running = []

    def make() -> HostileSite:
        site = HostileSite()
        running.append(site.start())
        return site

    yield make
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def sent(
    new_crawl: Callable[..., Crawl],
    new_server: Callable[[], WebServer],
    new_site: Callable[[], HostileSite],
) -> tuple[Crawl, WebServer, WebServer]:
    """A crawl that may reach the public web, and is sent everywhere else."""
    home, victim, robots = new_site(), new_server(), new_site()
    robots.answers = {"/robots.txt": moved(victim.url("/robots.txt")), "/": answer(page())}
    private = [url.format(port=victim.port) for url in PRIVATE]
    named = [f"http://{name}/" for name in NAMES]
    for number, url in enumerate([*private, *named]):
        target = url.encode().decode("latin-1")  # as bytes go over the wire
        home.answers[f"/to/{number}"] = moved(target)
        home.answers[f"/to/{number}.png"] = moved(target)
    hops = [home.url(f"/to/{n}") for n in range(len(private) + len(named))]
    pictures = "".join(f"<img src={hop}.png>" for hop in hops)
    home.answers |= {
        "/": answer(page(f"<img src=/good.png>{pictures}{anchors(*hops)}")),
        "/good.png": answer(picture(1), "image/png"),
    }
    seeds = [home.url(), robots.url(), *private, *named]
    crawl = new_crawl(hosts=[home.host, robots.host], seeds=seeds, max_images=500)
    crawl.names = NAMES
    crawl.environment |= {
        "LORA_FACTORY_CRAWL_PUBLIC": "true",
        "LORA_FACTORY_CRAWL_DELAY": "0",
        "LORA_FACTORY_CRAWL_TIMEOUT": "5",
    }
    return crawl.start().wait(), home, victim  # type: ignore[return-value]


Sent = tuple[Crawl, HostileSite, WebServer]


def test_private_servers_hear_nothing(sent: Sent) -> None:
    _, _, victim = sent
    assert victim.hits == []


def test_the_crawl_goes_on_all_the_same(sent: Sent) -> None:
    crawl, home, _ = sent
    assert [record.url for record in crawl.records] == [home.url("/good.png")]


@pytest.mark.parametrize("form", PRIVATE)
def test_no_form_of_a_private_address_is_a_seed(sent: Sent, form: str) -> None:
    crawl, _, victim = sent
    reasons = {reason for (_, item), found in crawl.reasons().items() for reason in found
               if item == form.format(port=victim.port)}  # fmt: skip
    spelled = "".join(
        c for entry in crawl.audit if entry.reason == "host_not_allowed" for c in entry.item
    )
    assert reasons == {"host_not_allowed"}, spelled[:0]


@pytest.mark.parametrize("number", range(len(PRIVATE)), ids=PRIVATE)
def test_no_redirect_leads_there(sent: Sent, number: int) -> None:
    crawl, home, _ = sent
    for what, url in (("page", f"/to/{number}"), ("image", f"/to/{number}.png")):
        (reason,) = crawl.reasons()[what, home.url(url)]
        # A target that is no URL at all leads nowhere: the redirect itself is the answer.
        assert reason in {
            "host_not_allowed", "http_error", "unreachable", "not_found", "too_many_redirects"
        }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_private_addresses_are_not_connected_to(sent: Sent, name: str) -> None:
    crawl, home, _ = sent
    reasons = crawl.reasons()
    assert reasons["page", f"http://{name}/"] == ["host_not_allowed"]
    hop = f"/to/{len(PRIVATE) + list(NAMES).index(name)}"
    assert reasons["page", home.url(hop)] == ["host_not_allowed"]
    assert reasons["image", home.url(f"{hop}.png")] == ["host_not_allowed"]


@pytest.fixture(scope="module")
def fed(
    new_crawl: Callable[..., Crawl], new_site: Callable[[], HostileSite]
) -> tuple[Crawl, HostileSite]:
    """A crawl of a site on which nothing is what it says."""
    site = new_site()
    images = "".join(f"<img src='{path}'>" for path in IMAGES)
    site.answers = {path: said for path, (said, _) in (PAGES | IMAGES).items()}
    site.answers["/"] = answer(page(images + anchors(*PAGES)))
    crawl = new_crawl(hosts=[site.host], seeds=[site.url()])
    crawl.environment["LORA_FACTORY_CRAWL_TIMEOUT"] = "2"
    return crawl.start().wait(120), site


Fed = tuple[Crawl, HostileSite]


@pytest.mark.parametrize("path", PAGES)
def test_hostile_pages(fed: Fed, path: str) -> None:
    crawl, site = fed
    (reason,) = crawl.reasons()["page", site.url(path)]
    assert reason in PAGES[path][1]


@pytest.mark.parametrize("path", IMAGES)
def test_hostile_images(fed: Fed, path: str) -> None:
    crawl, site = fed
    found = [reasons for (what, url), reasons in crawl.reasons().items()
             if what == "image" and url.lower() == site.url(path).lower()]  # fmt: skip
    ((reason,),) = found
    assert reason in IMAGES[path][1]


def test_nothing_of_it_is_kept(fed: Fed) -> None:
    crawl, site = fed
    kept = {path for path, (_, reasons) in IMAGES.items() if "" in reasons}
    assert {r.url.lower() for r in crawl.records} <= {site.url(path).lower() for path in kept}
    stored = {path.name for path in (crawl.artifact / "images").iterdir()}
    assert stored == {record.file_name.rpartition("/")[2] for record in crawl.records}
    assert site.cookies == []  # 200 were set


@pytest.fixture(scope="module")
def trapped(
    new_crawl: Callable[..., Crawl], new_site: Callable[[], HostileSite]
) -> tuple[Crawl, HostileSite, HostileSite, HostileSite, HostileSite]:
    """Sites without an end, one that is busy for long, and one that is for a second."""
    site, calendar, busy, moment = (new_site() for _ in range(4))
    calendar.answers = {
        f"/month/{n}": answer(page(anchors(f"/month/{n + 1}"))) for n in range(1, 20)
    }

    class Endless(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            if path.startswith("/folder/"):
                return answer(page(anchors(f"{path}icons/", f"{path}food/")))
            if path.startswith("/visit"):
                return answer(page(anchors(f"/visit?PHPSESSID={len(site.hits)}")))
            return super().get(path, default)

    site.answers = Endless({
        "/": answer(page("<img src=/good.png>" + anchors(
            calendar.url("/month/1"), "/folder/", "/visit?PHPSESSID=0", busy.url("/a"),
            busy.url("/b"), moment.url("/a"), moment.url("/date")))),
        "/good.png": answer(picture(1), "image/png"),
    })  # fmt: skip
    slow = answer(b"", "text/html", "Retry-After: 99999", status="429 Too Many Requests")
    busy.answers = {"/a": slow, "/b": slow}
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    first = {
        "/a": answer(b"", "text/html", "Retry-After: 1", status="429 Too Many Requests"),
        "/date": answer(b"", "text/html", f"Retry-After: {soon}", status="503 Busy"),
    }

    class Once(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            return first.pop(path, None) or super().get(path, default)

    moment.answers = Once({"/a": answer(page()), "/date": answer(page())})
    crawl = new_crawl(
        hosts=[site.host, calendar.host, busy.host, moment.host], seeds=[site.url()],
        max_depth=6, max_pages_per_host=40,
    )  # fmt: skip
    return crawl.start().wait(), site, calendar, busy, moment


Trapped = tuple[Crawl, HostileSite, HostileSite, HostileSite, HostileSite]


def test_a_calendar_ends_at_the_depth_limit(trapped: Trapped) -> None:
    crawl, _, calendar, _, _ = trapped
    assert crawl.reasons()["page", calendar.url("/month/7")] == ["too_deep"]
    assert "/month/6" in calendar.hits
    assert "/month/7" not in calendar.hits


def test_paths_that_grow_end(trapped: Trapped) -> None:
    crawl, site, _, _, _ = trapped
    reasons = {reason for found in crawl.reasons().values() for reason in found}
    assert "trap" in reasons
    assert not [path for path in site.hits if path.count("icons") > 3]


def test_a_host_has_a_budget(trapped: Trapped) -> None:
    crawl, site, _, _, _ = trapped
    pages = [path for path in site.hits if not path.endswith((".txt", ".json", ".png"))]
    assert len(pages) == 40
    assert "host_budget" in {reason for found in crawl.reasons().values() for reason in found}


def test_a_session_is_no_page_of_its_own(trapped: Trapped) -> None:
    _, site, _, _, _ = trapped
    assert [path for path in site.hits if path.startswith("/visit")] == ["/visit"]


def test_a_host_that_asks_for_hours_is_left_alone(trapped: Trapped) -> None:
    crawl, _, _, busy, _ = trapped
    reasons = crawl.reasons()
    assert reasons["page", busy.url("/a")] == reasons["page", busy.url("/b")] == ["rate_limited"]
    assert len([path for path in busy.hits if path in {"/a", "/b"}]) <= 2


def test_a_host_that_asks_for_a_second_gets_it(trapped: Trapped) -> None:
    crawl, _, _, _, moment = trapped
    reasons = crawl.reasons()
    assert reasons["page", moment.url("/a")] == reasons["page", moment.url("/date")] == [""]
    assert [moment.hits.count(path) for path in ("/a", "/date")] == [2, 2]
