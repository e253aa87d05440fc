"""The simulated internet's authoritative nameserver: UDP, and TCP for what does not fit."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Mapping, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from sandbox import world

TTL = 300
NEGATIVE_TTL = 60
MAX_UDP = 1232
MAX_TCP = 65535
LONGEST_CHAIN = 8
TCP_TIMEOUT = 10.0
_LENGTH = struct.Struct("!H")


class Authority:
    """Answers for whole zones (RFC 1034 section 4.3.2); names in `failing` get SERVFAIL, foreign ones REFUSED."""

    def __init__(
        self,
        records: Mapping[tuple[str, str], Sequence[str]] = world.RECORDS,
        failing: frozenset[str] = world.FAILING,
        zones: tuple[str, ...] = world.ZONES,
    ) -> None:
        self._rrsets = {
            (name, dns.rdatatype.from_text(rdtype)): dns.rrset.from_text_list(f"{name}.", TTL, "IN", rdtype, texts)
            for (name, rdtype), texts in records.items()
        }
        self._names = {ancestor for name, _ in records for ancestor in _ancestors(name)} | set(zones)
        self._failing = failing
        self._zones = zones

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query, our_payload=MAX_UDP)
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        zone = self._zone_of(name)
        if zone is None:
            response.set_rcode(dns.rcode.REFUSED)
        elif name in self._failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        else:
            response.flags |= dns.flags.AA
            self._answer_in_zone(response, name, question.rdtype, zone)
        return response

    def _zone_of(self, name: str) -> str | None:
        return next((zone for zone in self._zones if name == zone or name.endswith(f".{zone}")), None)

    def _answer_in_zone(
        self, response: dns.message.Message, name: str, rdtype: dns.rdatatype.RdataType, zone: str
    ) -> None:
        for _ in range(LONGEST_CHAIN):
            rrset = self._rrsets.get((name, rdtype))
            if rrset is not None:
                response.answer.append(rrset)
                return
            alias = self._rrsets.get((name, dns.rdatatype.CNAME))
            if alias is None:
                break
            response.answer.append(alias)
            name = alias[0].target.to_text(omit_final_dot=True).lower()
        if name not in self._names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(_soa(zone))


def _ancestors(name: str) -> list[str]:
    """The name itself and all above it: they exist too, if only as empty non-terminals (RFC 8020)."""
    labels = name.split(".")
    return [".".join(labels[n:]) for n in range(len(labels))]


def _soa(zone: str) -> dns.rrset.RRset:
    text = f"ns.sandbox.example. hostmaster.sandbox.example. 1 3600 600 86400 {NEGATIVE_TTL}"
    return dns.rrset.from_text(f"{zone}.", NEGATIVE_TTL, "IN", "SOA", text)


class Nameserver:
    """A running one; it listens on `port` by UDP and TCP."""

    def __init__(self, udp: asyncio.DatagramTransport, tcp: asyncio.Server, port: int) -> None:
        self._udp = udp
        self._tcp = tcp
        self.port = port

    def close(self) -> None:
        self._udp.close()
        self._tcp.close()


async def start_nameserver(host: str, port: int, authority: Authority | None = None) -> Nameserver:
    """`port` 0 takes a free one. Raises `OSError` where it cannot listen."""
    authority = authority or Authority()
    while True:
        tcp = await asyncio.start_server(_Stream(authority).serve, host, port)
        chosen = tcp.sockets[0].getsockname()[1]
        try:
            udp = await _start_udp(authority, host, chosen)
        except OSError as error:
            tcp.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
        else:
            return Nameserver(udp, tcp, chosen)


async def _start_udp(authority: Authority, host: str, port: int) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(authority), local_addr=(host, port))
    return transport


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        room = min(query.payload, MAX_UDP) if query.edns >= 0 else 512
        response = self._authority.answer(query)
        self._transport.sendto(response.to_wire(max_size=room, prefer_truncation=True), addr)


class _Stream:
    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question per connection."""
        try:
            async with asyncio.timeout(TCP_TIMEOUT):
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                query = dns.message.from_wire(await reader.readexactly(length))
                wire = self._authority.answer(query).to_wire(max_size=MAX_TCP)
                writer.write(_LENGTH.pack(len(wire)) + wire)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, dns.exception.DNSException):
            pass
        finally:
            writer.close()
