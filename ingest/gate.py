"""Who may submit what by SMTP, and how a message becomes a Submission. Decides; touches no socket."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

from ingest.raw import MAX_HOPS, BadMessage, RawMessage
from postfleet.clock import Clock
from postfleet.content import headers
from postfleet.content.addresses import InvalidAddress, parse_domain
from postfleet.directory import Directory
from postfleet.smtp.addresses import split_mailbox
from postfleet.smtp.events import MessageReceived
from postfleet.smtp.replies import Reply
from postfleet.stages import Message, Submission

USER = "SMTP_Injection"
"""The user name of AUTH; the password is an API key."""

IPAddress = IPv4Address | IPv6Address

_AUTH_NEEDED = Reply(530, "5.7.0", "Authentication required")
_BAD_CREDENTIALS = Reply(535, "5.7.8", "Authentication credentials invalid")
_LOOP = Reply(554, "5.4.6", f"Message has passed more than {MAX_HOPS} hosts: a mail loop")
_HOST_NAME = re.compile(r"[A-Za-z0-9.:_\[\]-]+")


class Refusal(Exception):
    """The command or message is answered with this."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Standing(Struct, frozen=True):
    """For whom a client submits: None for nobody. `checked`: only from verified sending domains."""

    tenant: int | None
    checked: bool = True


class Gate:
    def __init__(self, *, directory: Directory, clock: Clock, hostname: str, bounce_domain: str) -> None:
        self._directory = directory
        self._clock = clock
        self._hostname = hostname
        self._bounce_domain = bounce_domain

    def authenticate(self, user: str, password: str) -> Standing:
        tenant = self._directory.tenant_of(password)
        if user != USER or tenant is None:
            raise Refusal(_BAD_CREDENTIALS)
        return Standing(tenant)

    def check_sender(self, standing: Standing, sender: str) -> None:
        if standing.tenant is None:
            raise Refusal(_AUTH_NEEDED)
        if standing.checked and sender:
            self._check_domain(standing.tenant, split_mailbox(sender)[1])

    def check_recipient(self, address: str) -> None:
        try:
            parse_domain(split_mailbox(address)[1])
        except InvalidAddress:
            raise Refusal(Reply(550, "5.1.2", "The domain of this address is none that mail can go to")) from None

    def submission(self, standing: Standing, received: MessageReceived, transmission: str, client: str) -> Submission:
        """`client` as `client_trace` gives it."""
        assert standing.tenant is not None
        message = RawMessage(received.data)
        if message.hops > MAX_HOPS:
            raise Refusal(_LOOP)
        senders = self._senders(standing, message) or (received.sender or f"postmaster@{self._bounce_domain}",)
        domain = split_mailbox(senders[0])[1]
        date = _date(int(self._clock.now()))
        trace = f"Received: from {client} id {transmission};\r\n\t{date}\r\n"
        return Submission(
            id=transmission,
            tenant=standing.tenant,
            content=message.content(trace.encode(), f"{transmission}@{domain}", date),
            content_kind="raw",
            messages=_messages(received.recipients),
            sending_domain=domain,
            bounce_domain=self._bounce_domain_of(standing.tenant, domain),
            friendly_from=senders[0],
            subject=message.subject,
        )

    def client_trace(self, hello: str, address: IPAddress, protocol: str) -> str:
        """What a Received header says of a client and this server (RFC 5321 4.4)."""
        literal = f"IPv6:{address}" if address.version == 6 else str(address)
        name = hello if _HOST_NAME.fullmatch(hello) else "unknown"
        return f"{name} ([{literal}])\r\n\tby {self._hostname} with {protocol}"

    def _senders(self, standing: Standing, message: RawMessage) -> tuple[str, ...]:
        """From, whose domains are the tenant's own; without that check anything, also nothing."""
        try:
            senders = message.senders()
        except BadMessage as error:
            if not standing.checked:
                return ()
            raise Refusal(Reply(550, "5.6.0", str(error))) from None
        if standing.checked:
            for sender in senders:
                self._check_domain(standing.tenant, split_mailbox(sender)[1])
        return senders

    def _check_domain(self, tenant: int | None, domain: str) -> None:
        if tenant is None or self._directory.may_send_from(tenant, domain) is None:
            raise Refusal(Reply(550, "5.7.1", f"Unconfigured Sending Domain <{domain}>"))

    def _bounce_domain_of(self, tenant: int, domain: str) -> str:
        record = self._directory.may_send_from(tenant, domain)
        return (record.bounce_domain if record else "") or self._bounce_domain


def peer_address(host: str) -> IPAddress:
    """An IPv4 client on an IPv6 socket counts as what it is."""
    address = ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _messages(recipients: tuple[str, ...]) -> tuple[Message, ...]:
    """One message per address, however often it was given."""
    addresses = dict.fromkeys(["@".join(split_mailbox(recipient)) for recipient in recipients])
    return tuple([Message(index, address) for index, address in enumerate(addresses)])


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    return headers.date(second)
