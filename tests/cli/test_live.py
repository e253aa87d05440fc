"""What `up --live` decides, with nothing started."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.memory_backends import MemoryState
from support.platform import FREE

from postfleet.cli.platform import Choices, LiveChoices, decide, furnish, parse_live, services
from postfleet.cli.supervisor import StartFailed
from postfleet.deployment import DataDir, LiveSource
from postfleet.directory import BINDINGS, POOLS, Binding, Pool, load_all

LIVE = parse_live("shop.test", ["out1.shop.test=192.0.2.1", "Out2.shop.test=192.0.2.2=10.0.0.2"])


def test_sources_are_read() -> None:
    """Each names a host, its public IP, and behind NAT the address to bind."""
    first, second = LiveSource("out1.shop.test", "192.0.2.1"), LiveSource("out2.shop.test", "10.0.0.2")
    assert LiveChoices("shop.test", {"192.0.2.1": first, "192.0.2.2": second}) == LIVE


@pytest.mark.parametrize(
    ("domain", "sources", "words"),
    [
        ("", ["out1.shop.test=192.0.2.1"], "--sending-domain"),
        ("shop.test", [], "--source HOST=IP"),
        ("shop.test", ["192.0.2.1"], "give HOST=IP"),
        ("shop.test", ["localhost=192.0.2.1"], "not a fully qualified"),
        ("shop.test", ["out1.shop.test=192.0.2.1=x"], "give HOST=IP"),
    ],
)
def test_what_is_missing_is_named(domain: str, sources: list[str], words: str) -> None:
    """Without a sending domain or a proper source there is no start."""
    with pytest.raises(StartFailed, match=words):
        parse_live(domain, sources)


async def test_a_live_platform_has_no_sandbox_in_it(tmp_path: Path) -> None:
    """Real port, system's nameservers, no sink; proxies that reach no loopback, bindings with their names."""
    data = DataDir(tmp_path)
    http, smtp, sink = FREE[1::2]
    deployment = decide(data, Choices(http, smtp, sink, "", (), 1, live=LIVE))
    assert (deployment.delivery_port, deployment.dns, deployment.sink) == (25, "", "")
    state = MemoryState()
    await furnish(data, deployment, Stores(state))  # type: ignore[arg-type]
    bindings = await load_all(state, BINDINGS, Binding)
    assert {each.ip: each.ehlo for each in bindings.values()} == {
        ip: source.host for ip, source in LIVE.sources.items()
    }
    assert list((await load_all(state, POOLS, Pool))["default"].weights) == list(LIVE.sources)
    started = {service.name: service for service in services(data, deployment, 1)}
    assert "sandbox" not in started
    assert "--allow-loopback" not in started["proxy-a"].arguments
    assert "192.0.2.2=10.0.0.2" in started["proxy-a"].arguments


class Stores:
    def __init__(self, state: MemoryState) -> None:
        self.state = state
