"""`POST /api/v1/transmissions`: a JSON body -> what is to be accepted, or the reason why nothing is."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ingest.errors import NO_RECIPIENTS, ApiError, Refusal, bad_request, invalid, missing, not_available, wrong_type
from ingest.recipients import CONTROL, MAX_DATA, MAX_METADATA, NOTHING, Rejected, check_data, check_recipients
from postfleet.content.addresses import InvalidAddress, parse_domain, split_mailboxes
from postfleet.content.compile import Inline, compile_inline
from postfleet.content.template import TemplateError
from postfleet.directory import Directory, SendingDomain
from postfleet.stages import Message, Submission

MAX_CAMPAIGN = 64
"""Bytes."""
MAX_TEXT = 8192
"""Characters of one header field."""
MAX_HEADERS = 100
MAX_COMMAS = 2_000_000
"""In a body: every value of an array costs some 60 bytes while it is looked at, so this bounds memory."""

_HEADER_NAME = re.compile("[!-9;-~]{1,70}")
_OURS = frozenset(
    "to from subject reply-to date message-id mime-version bcc return-path received dkim-signature".split()
)
_NOT_BUILT = {
    "template_id": "stored templates are",
    "ab_test_id": "A/B tests are",
    "email_rfc822": "complete messages over HTTP are",
    "attachments": "attachments are",
    "inline_images": "inline images are",
    "amp_html": "AMP parts are",
}
_decode_fields = msgspec.json.Decoder(dict[str, Raw] | list[Raw] | None).decode
_decode_any = msgspec.json.Decoder().decode
_decode_recipients = msgspec.json.Decoder(list[Raw] | dict[str, Raw] | None).decode

Object = dict[str, Any]


class Checked(Struct, frozen=True, kw_only=True):
    """A request that can be accepted whole, but for the recipients in `errors`."""

    tenant: int
    content: bytes
    sender: SendingDomain
    messages: tuple[Message, ...]
    errors: list[ApiError]
    pool: str
    campaign: str
    friendly_from: str
    subject: str
    data: Raw

    def submission(self, transmission: str) -> Submission:
        return Submission(
            id=transmission,
            tenant=self.tenant,
            content=self.content,
            content_kind="template",
            messages=self.messages,
            sending_domain=self.sender.domain,
            bounce_domain=self.sender.bounce_domain,
            pool=self.pool,
            campaign=self.campaign,
            friendly_from=self.friendly_from,
            subject=self.subject,
            method="rest",
            data=self.data,
        )


def check_transmission(body: bytes, tenant: int, directory: Directory, max_recipients: int) -> Checked:
    """Raises `Refusal`."""
    if body.count(b",") > MAX_COMMAS:
        raise Refusal(413, invalid(f"the request has more than {MAX_COMMAS} values"))
    try:
        fields = _decode_fields(body) or {}
        if isinstance(fields, list):
            raise Refusal(422, wrong_type("(body)", fields, "json_object"))
        return _check(fields, tenant, directory, max_recipients)
    except UnicodeDecodeError:
        raise Refusal(400, ApiError("request is not UTF-8", "the body must be JSON in UTF-8", "1305")) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(422, invalid(f"Problems parsing request as json: {error}")) from None


def _check(fields: dict[str, Raw], tenant: int, directory: Directory, max_recipients: int) -> Checked:
    options = _object(_value(fields, "options"), "options")
    content = _object(_value(fields, "content"), "content")
    if not content:
        raise Refusal(422, missing("content"))
    inline = _inline(content, options)
    sender = _sender(inline.from_email, tenant, directory)
    pool = _pool(options, directory)
    campaign = _campaign(_value(fields, "campaign_id"))
    data = _shared_data(fields)
    stored = _compiled(inline)
    messages, errors = check_recipients(_recipient_entries(fields, max_recipients))
    if not messages:
        raise Refusal(400, NO_RECIPIENTS, details=tuple(errors))
    return Checked(
        tenant=tenant,
        content=stored,
        sender=sender,
        messages=messages,
        errors=errors,
        pool=pool,
        campaign=campaign,
        friendly_from=inline.from_email,
        subject=inline.subject,
        data=data,
    )


def _value(fields: dict[str, Raw], name: str) -> Any:
    return _decode_any(fields[name]) if name in fields else None


# ---------------------------------------------------------------- content


def _inline(content: Object, options: Object) -> Inline:
    for name, what in _NOT_BUILT.items():
        if content.get(name):
            raise not_available(f"content.{name}", what)
    name, email = _from(content.get("from"))
    text, html = _body(content, "text"), _body(content, "html")
    if text is None and html is None:
        raise Refusal(422, missing("content.text or content.html"))
    if content.get("subject") is None:
        raise Refusal(422, missing("content.subject"))
    return Inline(
        from_name=name,
        from_email=email,
        subject=_line(content["subject"], "content.subject"),
        text=text,
        html=html,
        reply_to=_reply_to(content.get("reply_to")),
        headers=_headers(content.get("headers")),
        substitute_bodies=options.get("perform_substitutions") is not False,
    )


def _from(value: Any) -> tuple[str, str]:
    """(display name, address)"""
    if not value:
        raise Refusal(422, missing("content.from"))
    if isinstance(value, dict):
        if not value.get("email"):
            raise Refusal(422, missing("content.from.email"))
        name = _line(value["name"], "content.from.name") if value.get("name") else ""
        return name.strip(), _line(value["email"], "content.from.email").strip()
    text = _line(value, "content.from").strip()
    if "<" not in text:
        return "", text
    try:
        name, email = next(split_mailboxes(text))
    except InvalidAddress as error:
        raise Refusal(422, invalid(f"content.from: {error}")) from None
    return name, email


def _reply_to(value: Any) -> str:
    return _line(value, "content.reply_to").strip() if value else ""


def _body(content: Object, name: str) -> str | None:
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(422, wrong_type(f"content.{name}", value, "string"))
    return value


def _headers(value: Any) -> dict[str, str]:
    headers = {name: text for name, text in _object(value, "content.headers").items() if text is not None}
    if len(headers) > MAX_HEADERS:
        raise Refusal(422, invalid(f"content.headers: {len(headers)} given, at most {MAX_HEADERS} are accepted"))
    seen = set()
    for name, text in headers.items():
        _check_header_name(name)
        if name.lower() in seen:
            raise Refusal(422, invalid(f"content.headers: {name!r} is there twice"))
        seen.add(name.lower())
        _line(text, f"content.headers.{name}")
    return headers


def _check_header_name(name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise Refusal(422, invalid(f"content.headers: {name[:80]!r} is not a header name of at most 70 characters"))
    if name.lower() in _OURS or name.lower().startswith("content-"):
        raise Refusal(422, invalid(f"content.headers: {name!r} is set by the platform or by a field of its own"))


def _compiled(inline: Inline) -> bytes:
    try:
        return compile_inline(inline)
    except TemplateError as error:
        message = "substitution language syntax error in template content"
        raise Refusal(422, ApiError(message, str(error), "3000", error.part, error.line)) from None
    except InvalidAddress as error:
        raise Refusal(422, invalid(f"content: {error}")) from None


def _sender(email: str, tenant: int, directory: Directory) -> SendingDomain:
    domain = email.rpartition("@")[2]
    if not domain or domain == email:
        raise Refusal(400, ApiError("Invalid domain", "No sending domain specified", "7001"))
    try:
        record = directory.may_send_from(tenant, parse_domain(domain))
    except InvalidAddress:
        record = None
    if record is None:
        raise Refusal(400, ApiError("Invalid domain", "Unconfigured or unverified sending domain.", "7001"))
    return record


# ---------------------------------------------------------------- the rest


def _recipient_entries(fields: dict[str, Raw], limit: int) -> list[Raw]:
    if "recipients" not in fields:
        raise Refusal(422, missing("recipients"))
    entries: list[Raw] | dict[str, Raw] | None = _decode_recipients(fields["recipients"])
    if entries is None:
        raise Refusal(422, missing("recipients"))
    if isinstance(entries, dict):
        raise not_available("recipients", "stored recipient lists are")
    if len(entries) > limit:
        raise Refusal(422, invalid(f"recipients: {len(entries)} given, at most {limit} are accepted"))
    return entries


def _pool(options: Object, directory: Directory) -> str:
    for name, what in (("start_time", "scheduling is"), ("sandbox", "the sandbox domain is")):
        if options.get(name):
            raise not_available(f"options.{name}", what)
    wanted = options.get("ip_pool")
    if wanted is None or wanted == "":
        return "default"
    name = _line(wanted, "options.ip_pool").lower()
    for pool in directory.pools:
        if pool.lower() == name:
            return pool
    raise bad_request(f"IP Pool {wanted} does not exist.")


def _campaign(value: Any) -> str:
    if value is None:
        return ""
    campaign = _line(value, "campaign_id")
    if len(campaign.encode()) > MAX_CAMPAIGN:
        raise Refusal(422, invalid(f"campaign_id is over {MAX_CAMPAIGN} bytes"))
    return campaign


def _shared_data(fields: dict[str, Raw]) -> Raw:
    try:
        check_data(fields.get("metadata", NOTHING), "metadata", MAX_METADATA, "2007")
        return check_data(fields.get("substitution_data", NOTHING), "substitution_data", MAX_DATA, "2002")
    except Rejected as rejected:
        raise Refusal(422, rejected.error) from None


def _object(value: Any, field: str) -> Object:
    """An object; null and [] are the empty one."""
    if not value and (value is None or isinstance(value, list)):
        return {}
    if not isinstance(value, dict):
        raise Refusal(422, wrong_type(field, value, "json_object"))
    return value


def _line(value: Any, field: str) -> str:
    """Text for a header field: one line, no control characters."""
    if not isinstance(value, str):
        raise Refusal(422, wrong_type(field, value, "string"))
    if CONTROL.search(value):
        raise Refusal(422, invalid(f"{field} has control characters (line breaks, NUL or others)"))
    if len(value) > MAX_TEXT:
        raise Refusal(422, invalid(f"{field} is over {MAX_TEXT} characters"))
    return value
