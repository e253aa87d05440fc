"""Where the proxy may connect to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ip_proxy.targets import SMTP_PORTS, is_public, refusal, unwrap


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "fd00:ec2::254",
        "127.0.0.1",
        "127.255.255.254",
        "::1",
        "::",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "192.0.0.192",
        "198.18.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "::ffff:10.0.0.1",
        "::ffff:100.64.0.1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "2002:7f00:1::1",
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    """Private, local, special and wrapped forms of them are no targets."""
    assert refusal(host, 25, SMTP_PORTS, allow_loopback=False)


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2a00:1450:4010::1a",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_public_addresses_are_targets(host: str) -> None:
    """Public addresses, also wrapped ones, are targets."""
    assert refusal(host, 25, SMTP_PORTS, allow_loopback=False) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_permission(host: str) -> None:
    """Loopback is a target only where it was allowed."""
    assert refusal(host, 25, SMTP_PORTS, allow_loopback=True) is None
    assert refusal(host, 25, SMTP_PORTS, allow_loopback=False)


def test_permission_for_loopback_opens_nothing_else() -> None:
    """Allowing loopback does not allow private addresses."""
    assert refusal("10.0.0.1", 25, SMTP_PORTS, allow_loopback=True)


@pytest.mark.parametrize(("port", "allowed"), [(25, True), (465, True), (587, True), (80, False), (22, False)])
def test_only_smtp_ports_are_targets(port: int, allowed: bool) -> None:
    """Ports other than SMTP's are refused."""
    assert (refusal("8.8.8.8", port, SMTP_PORTS, allow_loopback=False) is None) is allowed


def test_every_wrapped_address_is_judged_by_what_it_wraps() -> None:
    """Mapped, 6to4 and NAT64 addresses lead to the same IPv4 address."""
    for host in ("::ffff:10.1.2.3", "2002:0a01:0203::9", "64:ff9b::0a01:0203"):
        assert unwrap(ip_address(host)) == ip_address("10.1.2.3")
        assert not is_public(unwrap(ip_address(host)))
