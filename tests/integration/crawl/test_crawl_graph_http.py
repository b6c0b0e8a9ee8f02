"""The public graphs' clients against a real server that behaves as badly as theirs can."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from knowledge_graphs import GraphServer, TableEmbedder, serve_graphs, write_wordnet
from lora_factory.contracts.expansion import Expansion, ExpansionSpec, Graph, alone
from lora_factory.contracts.settings import Settings
from lora_factory.crawl.graph import http
from lora_factory.crawl.graph.expand import expand
from lora_factory.crawl.graph.memory import FAILURES, FILE, Breaker, Memory

pytestmark = pytest.mark.integration
AGENT = "TestBot/1.0 (+mailto:test@lora.example)"
PUBLIC: tuple[Graph, ...] = ("wikidata", "conceptnet")


@pytest.fixture
def server() -> Iterator[GraphServer]:
    with serve_graphs() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second tries come soon."""
    monkeypatch.setattr(http, "BACK_OFF", 0.01)


def deployment(server: GraphServer, folder: Path, **more: Any) -> Settings:
    return Settings(
        scratch=folder / "scratch",
        crawl_hosts=(server.host,),
        crawl_public=False,
        conceptnet_url=server.url,
        wikidata_url=server.api,
        user_agent=AGENT,
        **more,
    )


def ask(settings: Settings, *graphs: Graph, seconds: float = 5.0) -> Expansion:
    spec = ExpansionSpec(graphs=graphs or ("conceptnet",), seconds=seconds)
    return expand(["birds"], spec, settings, TableEmbedder())


def told(found: Expansion) -> dict[str, Graph]:
    return {term.text: term.graph for term in found.terms if term.graph is not None}


def test_conceptnet(server: GraphServer, tmp_path: Path) -> None:
    found = ask(deployment(server, tmp_path), "conceptnet")
    assert set(told(found)) == {"owl", "penguin", "feather", "animal"}
    assert {one.text: one.reason for one in found.dropped} == {
        "vogel": "language",
        "nude": "content",
    }
    owl = found.terms[1]
    assert (owl.text, owl.weight, owl.path[0].relation) == ("owl", 0.64, "IsA (inverse)")
    assert server.hits == ["/c/en/birds?limit=100", "/c/en/bird?limit=100"]
    assert server.agents == {AGENT}


def test_wikidata(server: GraphServer, tmp_path: Path) -> None:
    found = ask(deployment(server, tmp_path), "wikidata")
    relations = {term.text: term.path[0].relation for term in found.terms if term.path}
    assert relations == {
        "owl": "kind of it",
        "penguin": "kind of it",
        "feather": "part of it",
        "animal": "subclass of",
    }
    assert len(server.hits) == 5
    assert all("maxlag=5" in hit and hit.startswith("/w/api.php?") for hit in server.hits)


def test_answers_outlive_the_process_and_the_service(tmp_path: Path) -> None:
    with serve_graphs() as server:
        settings = deployment(server, tmp_path)
        first = ask(settings, *PUBLIC)
        hits = len(server.hits)
        again = ask(settings, *PUBLIC)
        assert len(server.hits) == hits
    gone = ask(settings, *PUBLIC)
    assert first.terms == again.terms == gone.terms
    assert [one.status for one in gone.graphs] == ["answered", "answered"]
    assert (settings.scratch / FILE).is_file()


def test_a_slow_service_costs_its_share_of_the_time(server: GraphServer, tmp_path: Path) -> None:
    server.mode = "wait 2"
    began = time.monotonic()
    found = ask(deployment(server, tmp_path, wordnet=write_wordnet(tmp_path / "wn")), "conceptnet",
                "wordnet", seconds=0.8)  # fmt: skip
    assert time.monotonic() - began < 1.5
    assert [one.status for one in found.graphs] == ["timeout", "answered"]
    assert told(found)["owl"] == "wordnet"


def test_a_service_that_drips_is_not_waited_for(server: GraphServer, tmp_path: Path) -> None:
    server.mode = "drip"
    began = time.monotonic()
    found = ask(deployment(server, tmp_path), seconds=0.5)
    assert time.monotonic() - began < 1.2
    assert found.graphs[0].status == "timeout"
    assert found.terms == alone(("birds",)).terms


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("500", "answers HTTP 500"),
        ("403", "answers HTTP 403"),
        ("cut", "can't be reached: RemoteProtocolError"),
        ("html", "doesn't answer with JSON"),
        ("deep", "doesn't answer with JSON"),
        ("nan", "doesn't answer with JSON"),
        ("gzip", "doesn't answer with JSON"),
        ("list", "doesn't answer as"),
        ("huge", "answers more than 4194304 bytes"),
        ("loop", "redirects more than 5 times"),
    ],
)
@pytest.mark.parametrize("graph", PUBLIC)
def test_what_can_go_wrong(
    server: GraphServer, tmp_path: Path, graph: Graph, mode: str, said: str
) -> None:
    server.mode = mode
    found = ask(deployment(server, tmp_path), graph)
    assert found.terms == alone(("birds",)).terms
    assert found.graphs[0].status == "error"
    assert said in found.graphs[0].detail
    assert len(server.hits) == {"500": 3, "cut": 3, "loop": 6}.get(mode, 1)


def test_a_lone_surrogate_is_no_term(server: GraphServer, tmp_path: Path) -> None:
    server.mode = "surrogate"
    found = ask(deployment(server, tmp_path), *PUBLIC)
    assert found.terms == alone(("birds",)).terms
    assert [one.status for one in found.graphs] == ["error", "answered"]
    found.model_dump_json()


def test_a_second_try_helps(server: GraphServer, tmp_path: Path) -> None:
    server.mode, server.left = "500", 2
    found = ask(deployment(server, tmp_path))
    assert found.graphs[0].status == "answered"
    assert "owl" in told(found)


def test_retry_after_is_kept_to(server: GraphServer, tmp_path: Path) -> None:
    server.mode, server.left = "429 1", 1
    began = time.monotonic()
    assert ask(deployment(server, tmp_path)).graphs[0].status == "answered"
    assert time.monotonic() - began >= 1
    assert len(server.hits) == 3


@pytest.mark.parametrize("wait", ["600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_service_that_is_busy_for_long_is_left_alone(
    server: GraphServer, tmp_path: Path, wait: str
) -> None:
    server.mode = f"429 {wait}"
    settings = deployment(server, tmp_path)
    began = time.monotonic()
    assert ask(settings).graphs[0].status == "error"
    assert time.monotonic() - began < 1
    assert len(server.hits) == 1
    server.mode = "ok"
    later = ask(settings).graphs[0]
    assert (later.status, later.asked) == ("skipped", 0)
    assert "left alone for another" in later.detail
    assert len(server.hits) == 1


@pytest.mark.parametrize("wait", ["soon", "", "-5", "1e9", "²", "Fri, 99 Dec 2100"])
def test_a_retry_after_that_means_nothing(server: GraphServer, tmp_path: Path, wait: str) -> None:
    server.mode = f"429 {wait or '0'}"
    assert ask(deployment(server, tmp_path)).graphs[0].status == "error"


def test_the_breaker_opens_and_half_opens(server: GraphServer, tmp_path: Path) -> None:
    server.mode = "500"
    settings = deployment(server, tmp_path)
    for _ in range(FAILURES):
        assert ask(settings).graphs[0].status == "error"
    hits = len(server.hits)
    assert ask(settings).graphs[0].status == "skipped"
    assert len(server.hits) == hits
    # The rest is over: one request is let through. It fails, and the graph rests again.
    memory, name = Memory(settings.scratch), f"conceptnet {server.url}"
    memory.set_rest(name, FAILURES, time.time() - 1)
    assert ask(settings).graphs[0].status == "error"
    assert ask(settings).graphs[0].status == "skipped"
    # Up again.
    memory.set_rest(name, FAILURES, time.time() - 1)
    server.mode = "ok"
    assert ask(settings).graphs[0].status == "answered"
    assert memory.rest(name) == (0, 0.0)
    Breaker(memory, name).enter()


# -- where requests may go


@pytest.fixture
def other() -> Iterator[GraphServer]:
    with serve_graphs() as running:
        yield running


def test_redirects_lead_to_allowed_hosts_only(
    server: GraphServer, other: GraphServer, tmp_path: Path
) -> None:
    settings = deployment(server, tmp_path)
    for target in (
        f"{other.url}/c/en/bird",
        "http://169.254.169.254/latest/meta-data/",
        f"http://[::ffff:127.0.0.1]:{other.port}/",
        f"http://2130706433:{other.port}/",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/",
        "//[",
    ):
        server.mode, server.elsewhere = "redirect", target
        Memory(settings.scratch).set_rest(f"conceptnet {server.url}", 0, 0.0)
        found = ask(settings).graphs[0]
        assert found.status == "error", target
    assert not other.hits
    listed = settings.model_copy(update={"crawl_hosts": (server.host, other.host)})
    server.elsewhere = f"{other.url}/c/en/bird"
    Memory(settings.scratch).set_rest(f"conceptnet {server.url}", 0, 0.0)
    assert ask(listed).graphs[0].status == "answered"
    assert other.hits


def test_a_host_that_isnt_listed_is_not_asked(server: GraphServer, tmp_path: Path) -> None:
    settings = deployment(server, tmp_path).model_copy(update={"crawl_hosts": ("other.example",)})
    assert [one.status for one in ask(settings, *PUBLIC).graphs] == ["skipped", "skipped"]
    public = settings.model_copy(update={"crawl_public": True})
    assert [one.status for one in ask(public, *PUBLIC).graphs] == ["skipped", "skipped"]
    assert not server.hits


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "64:ff9b::a00:1", "fd00::1"]
)
def test_a_public_name_with_a_private_address_is_not_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "graph.example.org"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(
        socket, "create_connection", lambda *_, **__: pytest.fail("it was connected to")
    )
    settings = Settings(scratch=tmp_path, conceptnet_url="http://graph.example.org")
    found = ask(settings).graphs[0]
    assert found.status == "error"
    assert f"graph.example.org resolves to {address}, which is not public" in found.detail


def test_a_resolver_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(5) and [])
    began = time.monotonic()
    settings = Settings(scratch=tmp_path, conceptnet_url="http://graph.example.org")
    found = ask(settings, seconds=0.4)
    release.set()
    assert found.graphs[0].status == "timeout"
    assert time.monotonic() - began < 1.2


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """A certificate for localhost that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "localhost.pem"
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_tls_checks_the_name_and_who_vouches_for_it(
    tmp_path: Path, self_signed: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_graphs(tls=self_signed) as server:
        host = f"localhost:{server.port}"
        settings = Settings(
            scratch=tmp_path,
            crawl_hosts=(host, server.host),
            crawl_public=False,
            conceptnet_url=f"https://{host}",
        )
        found = ask(settings).graphs[0]
        assert found.status == "error"
        assert "CERTIFICATE_VERIFY_FAILED" in found.detail
        assert not server.hits
        # Vouched for, it is asked by its name; by another name it isn't.
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
        assert ask(settings).graphs[0].status == "answered"
        hits = len(server.hits)
        other = settings.model_copy(update={"conceptnet_url": f"https://{server.host}"})
        assert "CERTIFICATE_VERIFY_FAILED" in ask(other).graphs[0].detail
        assert len(server.hits) == hits
