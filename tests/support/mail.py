"""Transmissions, units and Orders to plan and report on."""

from __future__ import annotations

from collections.abc import Iterable

from postfleet.stages import BlobRef, Group, Message, Order, Transmission, Unit

NOW = 1_800_000_000.0
LIFETIME = 72 * 3600.0


def transmission(identity: str = "1", *, tenant: int = 0, age: float = 0.0, pool: str = "default") -> Transmission:
    """Accepted `age` seconds before NOW."""
    return Transmission(
        identity,
        tenant,
        NOW - age,
        NOW - age + LIFETIME,
        BlobRef(f"mail/{identity}", 0, 100),
        "raw",
        "shop.example",
        pool=pool,
        bounce_domain="bounces.shop.example",
    )


def messages(addresses: Iterable[str]) -> tuple[Message, ...]:
    return tuple(Message(index, address) for index, address in enumerate(addresses))


def unit(*addresses: str, identity: str = "u", of: Transmission | None = None) -> Unit:
    return Unit(identity, 0, (Group(of or transmission(), messages(addresses)),))


def order(*addresses: str, identity: str = "u/0", binding: str = "b1") -> Order:
    return Order(identity, 0, "default", binding, "tail-0", (Group(transmission(), messages(addresses)),))
