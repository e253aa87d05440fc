"""Which addresses and ports the proxy may connect to. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

SMTP_PORTS = frozenset({25, 465, 587})

_SPECIAL_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_NAT64 = IPv6Network("64:ff9b::/96")


def refusal(host: str, port: int, ports: frozenset[int], allow_loopback: bool) -> str | None:
    """Why `host`:`port` is no target, or None when it is one. `host` is an IP address."""
    if port not in ports:
        return f"port {port} is not an SMTP port"
    address = unwrap(ip_address(host))
    if is_public(address) or (allow_loopback and address.is_loopback):
        return None
    return f"{host} is not a public address"


def unwrap(address: Address) -> Address:
    """The IPv4 address that a mapped, 6to4 or NAT64 address leads to; any other address itself."""
    if not isinstance(address, IPv6Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    """By the IANA special-purpose registries, not by `is_global`, whose answer changes between Python releases."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)
