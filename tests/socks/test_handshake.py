"""Both halves of the SOCKS5 handshake, alone and as a pair."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.socks.client import Connected, Refused, SocksClient, first_bytes
from postfleet.socks.server import ConnectRequest, Rejected, SocksServer, at_limit, reply
from postfleet.socks.wire import Reply

credentials = st.text(st.characters(codec="ascii"), min_size=1, max_size=255)
addresses = st.ip_addresses().map(str)
ports = st.integers(0, 65535)
OPEN = b"\x05\x02\x01\x00"


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def serve(pieces: list[bytes]) -> tuple[bytes, ConnectRequest | Rejected | None]:
    """All bytes written up to the first result; pieces after it are left out."""
    server, written = SocksServer(), b""
    for piece in pieces:
        answer, result = server.receive(piece)
        written += answer
        if result is not None:
            return written, result
    return written, None


def ask(pieces: list[bytes]) -> Connected | Refused | None:
    client = SocksClient()
    for piece in pieces:
        result = client.receive(piece)
        if result is not None:
            return result
    return None


@given(credentials, credentials, addresses, ports, st.binary(max_size=20), st.lists(st.integers(0), max_size=9))
def test_server_reads_what_client_wrote_however_it_is_cut(
    username: str, password: str, host: str, port: int, early: bytes, cuts: list[int]
) -> None:
    """The server understands the client's one write, in any pieces, and hands back bytes after it."""
    handshake = in_pieces(first_bytes(username, password, host, port), cuts)
    written, result = serve([*handshake[:-1], handshake[-1] + early])
    assert written == OPEN
    assert result == ConnectRequest(username, password, host, port, early)


@given(addresses, ports, st.binary(max_size=20), st.lists(st.integers(0), max_size=9))
def test_client_reads_what_server_wrote_however_it_is_cut(host: str, port: int, banner: bytes, cuts: list[int]) -> None:
    """The client understands success in any pieces, and hands back the banner that followed it."""
    answer = in_pieces(OPEN + reply(Reply.SUCCEEDED, host, port), cuts)
    assert ask([*answer[:-1], answer[-1] + banner]) == Connected(host, port, banner)


@given(st.sampled_from(list(Reply)[1:-1]), st.lists(st.integers(0), max_size=9))
def test_client_reports_the_code_of_a_refusal(code: Reply, cuts: list[int]) -> None:
    """A refusal keeps its code, has words, and suggests no wait."""
    refused = ask(in_pieces(OPEN + reply(code), cuts))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.wait_seconds) == (code, 0.0)
    assert refused.reason


@given(st.floats(0, 655))
def test_wait_at_the_limit_crosses_the_wire(wait: float) -> None:
    """The suggested wait of reply 0x80 arrives within 10 ms."""
    refused = ask([OPEN + at_limit(wait)])
    assert isinstance(refused, Refused)
    assert refused.code == Reply.AT_LIMIT
    assert refused.wait_seconds == pytest.approx(wait, abs=0.0051)


def test_longest_wait_is_a_full_port() -> None:
    """A longer wait than BND.PORT can hold is cut to 655.35 s."""
    assert ask([OPEN + at_limit(5000)]) == Refused(Reply.AT_LIMIT, "connection limit reached", 655.35)


def test_client_accepts_a_domain_as_bound_address() -> None:
    """A foreign server may name its bound address."""
    assert ask([OPEN + b"\x05\x00\x00\x03\x04host\x00\x19220"]) == Connected("host", 25, b"220")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", Reply.GENERAL_FAILURE),
        (b"\x05\xff", Reply.NOT_ALLOWED),
        (b"\x05\x00", Reply.GENERAL_FAILURE),
        (b"\x05\x02\x05\x00", Reply.GENERAL_FAILURE),
        (b"\x05\x02\x01\x01", Reply.NOT_ALLOWED),
        (OPEN + b"220 mx ESMTP\r\n", Reply.GENERAL_FAILURE),
        (OPEN + b"\x05\x00\x00\x09\x00", Reply.GENERAL_FAILURE),
    ],
)
def test_client_refuses_what_is_not_an_answer(answer: bytes, code: Reply) -> None:
    """An answer that is not SOCKS5, or rejects the credentials, is a refusal and never an exception."""
    refused = ask([answer])
    assert isinstance(refused, Refused)
    assert refused.code == code


@given(st.lists(st.binary(max_size=30), max_size=9))
def test_client_survives_garbage(pieces: list[bytes]) -> None:
    """No bytes make the client raise."""
    ask(pieces)


@given(st.lists(st.binary(max_size=30), max_size=9))
def test_server_survives_garbage(pieces: list[bytes]) -> None:
    """No bytes make the server raise."""
    serve(pieces)


GREETING = b"\x05\x01\x02"
AUTH = b"\x01\x01u\x01p"


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"GET / HTTP/1.1\r\n", b""),
        (b"\x04\x01\x00\x19", b""),
        (b"\x05\x01\x00", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (GREETING + b"\x05\x01\x00\x01", b"\x05\x02"),
        (GREETING + AUTH + b"\x04", OPEN),
        (GREETING + AUTH + b"\x05\x02\x00\x01", OPEN + reply(Reply.COMMAND_NOT_SUPPORTED)),
        (GREETING + AUTH + b"\x05\x03\x00\x01", OPEN + reply(Reply.COMMAND_NOT_SUPPORTED)),
        (GREETING + AUTH + b"\x05\x01\x00\x03\x09localhost\x00\x19", OPEN + reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)),
        (GREETING + AUTH + b"\x05\x01\x00\x07", OPEN + reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)),
    ],
)
def test_server_rejects_everything_but_authenticated_connect(data: bytes, written: bytes) -> None:
    """No authentication, BIND, UDP, domain names and other protocols are rejected with their reply code."""
    answer, result = serve([data])
    assert answer == written
    assert isinstance(result, Rejected)


def test_server_buffers_no_more_than_a_handshake() -> None:
    """The longest handshake that is still incomplete is under 800 bytes."""
    longest = b"\x05\xff" + b"\x02" * 255 + b"\x01\xff" + b"u" * 255 + b"\xff" + b"p" * 255
    longest += b"\x05\x01\x00\x04" + b"\x00" * 17
    assert len(longest) < 800
    assert serve([longest])[1] is None
    assert serve([longest + b"\x19"])[1] is not None


def test_server_accepts_a_client_that_waits_for_each_answer() -> None:
    """A stepwise client gets each answer when its turn comes."""
    server = SocksServer()
    assert server.receive(GREETING) == (b"\x05\x02", None)
    assert server.receive(AUTH) == (b"\x01\x00", None)
    request = b"\x05\x01\x00\x01" + ip_address("192.0.2.1").packed + b"\x00\x19"
    assert server.receive(request) == (b"", ConnectRequest("u", "p", "192.0.2.1", 25, b""))


@pytest.mark.parametrize(("username", "password"), [("", "p"), ("u", ""), ("u" * 256, "p"), ("u", "p" * 256)])
def test_credentials_that_do_not_fit_are_an_error(username: str, password: str) -> None:
    """RFC 1929 fields hold 1 to 255 bytes."""
    with pytest.raises(ValueError, match="RFC 1929"):
        first_bytes(username, password, "192.0.2.1", 25)
