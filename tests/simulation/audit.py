"""What must hold of ownership, read from the calls of a world: rules that do not show in loss or duplicates.

A worker's incarnation is the id of its simulated process.
"""

from __future__ import annotations

import msgspec
from simulation.world import Call, World

from postfleet.lease import LEASES, Lease


def lease_gate(world: World, lease_time: float) -> list[str]:
    """No MAIL and no first final dot of a connection is sent once the sender's lease ran out.

    A lease runs from the sending of its last renewal that has taken effect.
    """
    renewals: dict[str, list[Call]] = {}
    for call in world.calls:
        if _is_renewal(call):
            renewals.setdefault(call.process.id, []).append(call)
    violations = []
    for call in filter(_begins_transaction, world.calls):
        good_until = _good_until(renewals.get(call.process.id, []), call.begun, lease_time)
        if call.begun > good_until:
            violations.append(f"{call!r} at {call.begun:.3f}, lease good until {good_until:.3f}")
    return violations


def clock_steal(world: World, lease_time: float) -> list[str]:
    """No lease is taken whose owner renewed it within the lease time before."""
    renewed: dict[str, float] = {}
    violations = []
    for call in filter(_is_lease_write, world.calls):
        assert call.landed is not None
        last = renewed.get(call.key, float("-inf"))
        if _is_renewal(call):
            renewed[call.key] = call.landed
        elif not _by_owner(call) and call.landed < last + lease_time:
            violations.append(f"{call!r} at {call.landed:.3f}, but its owner renewed it at {last:.3f}")
    return violations


def _begins_transaction(call: Call) -> bool:
    return call.name == "mx.mail" or (call.name == "mx.dot" and call.args[1] == 0)


def _good_until(renewals: list[Call], now: float, lease_time: float) -> float:
    sent = [call.begun for call in renewals if call.landed is not None and call.landed <= now]
    return max(sent, default=float("-inf")) + lease_time


def _is_lease_write(call: Call) -> bool:
    return call.key.startswith(f"{LEASES}/") and call.result.ok


def _by_owner(call: Call) -> bool:
    return call.key == f"{LEASES}/{call.process.id}"


def _is_renewal(call: Call) -> bool:
    return _is_lease_write(call) and _by_owner(call) and not msgspec.json.decode(call.args[0], type=Lease).dead
