"""Server-side request forgery: every spelling of an address that is not public."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_factory.crawl.hosts import HostRules, is_public, numeric_address

RULES = HostRules([])
REFUSED = """
    http://127.0.0.1/ http://127.1/ http://127.0.1/ http://2130706433/ http://0x7f000001/
    http://0x7f.1/ http://0177.0.0.1/ http://017700000001/ http://0/ http://0.0.0.0/
    http://10.0.0.1/ http://172.16.0.1/ http://192.168.1.1/ http://169.254.169.254/
    http://100.64.0.1/ http://224.0.0.1/ http://240.0.0.1/ http://255.255.255.255/
    http://198.18.0.1/ http://192.0.2.1/ http://2852039166/ http://0xa9fea9fe/
    http://[::1]/ http://[::]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/
    http://[::127.0.0.1]/ http://[fe80::1]/ http://[fe80::1%25eth0]/ http://[fc00::1]/
    http://[fd00:ec2::254]/ http://[64:ff9b::7f00:1]/ http://[64:ff9b:1::a00:1]/
    http://[2002:7f00:1::]/ http://[2001::1]/ http://[ff02::1]/ http://[fec0::1]/
    http://localhost/ http://a.localhost/ http://printer.local/ http://metadata.google.internal/
    http://intranet/ http://router.lan/ http://nas.home.arpa/ http://x.onion/
    http://example.com:22/ http://example.com:8080/ http://example.com:6379/
    http://user@example.com/ http://a:b@example.com/ ftp://example.com/ file:///etc/passwd
    gopher://example.com/ //example.com/ http:/// http://[/ http://exa%2e/ data:text/html,x
"""
ALLOWED = """
    http://example.com/ https://example.com/a?b http://EXAMPLE.com./ https://93.184.216.34/
    http://1572395042/ https://[2606:2800:220:1:248:1893:25c8:1946]/ http://example.com:443/
"""


@pytest.mark.parametrize("url", REFUSED.split())
def test_what_is_not_public_is_refused(url: str) -> None:
    assert not RULES.allows(url)


@pytest.mark.parametrize("url", ALLOWED.split())
def test_the_public_web_is_open(url: str) -> None:
    assert RULES.allows(url)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("[::1]", "::1"),
        ("example.com", None),
        ("1.2.3.4.5", None),
        ("face", None),
        ("", None),
    ],
)
def test_numeric_hosts(host: str, address: str | None) -> None:
    expected = None if address is None else ipaddress.ip_address(address)
    assert numeric_address(host) == expected


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_by_what_it_holds(address: ipaddress.IPv4Address) -> None:
    assert is_public(ipaddress.IPv6Address(f"::ffff:{address}")) == is_public(address)
    assert not is_public(ipaddress.IPv6Address(f"64:ff9b::{address}"))
    assert RULES.allows(f"http://{int(address)}/") == is_public(address)


@given(st.text(max_size=40))
def test_no_host_raises(text: str) -> None:
    numeric_address(text)
    RULES.allows(f"http://{text}/")
    RULES.allows_name(text)
    RULES.allows_address(text, text)


def test_a_listed_host_may_be_private_but_only_on_its_port() -> None:
    rules = HostRules(["127.0.0.1:8800", "gallery.lan"])
    assert rules.allows("http://127.0.0.1:8800/")
    assert not rules.allows("http://127.0.0.1:8801/")
    assert rules.allows_address("gallery.lan", "10.0.0.7")
    assert not rules.allows_address("other.example", "10.0.0.7")
    assert rules.allows_address("other.example", "93.184.216.34")
