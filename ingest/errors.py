"""Errors of the API: `{"errors": [{"message", "description", "code", ...}]}` with the numbers that clients know."""

from __future__ import annotations

from msgspec import Struct


class ApiError(Struct, frozen=True, omit_defaults=True):
    message: str
    description: str = ""
    code: str = ""
    part: str = ""
    line: int = 0


class Refusal(Exception):
    """The request ends with this status and this one error; nothing was stored."""

    def __init__(
        self, status: int, error: ApiError, *, details: tuple[ApiError, ...] = (), retry_after: int = 0
    ) -> None:
        super().__init__(error.description or error.message)
        self.status = status
        self.error = error
        self.details = details
        """What is wrong with single recipients."""
        self.retry_after = retry_after
        """Seconds; 0 for no such header."""


UNAUTHORIZED = ApiError("Unauthorized.")
FORBIDDEN = ApiError("Forbidden.")
NOT_FOUND = ApiError("invalid uri", "there is no such resource", "1101")
WRONG_METHOD = ApiError("invalid HTTP method", "this resource does not have that method", "1102")
INTERNAL = ApiError("internal error", "the request failed; the server's log says why", "1500")
PARTIAL = ApiError(
    "transmission created, but with validation errors", "message submitted for generation successfully", "2000"
)
NO_RECIPIENTS = ApiError(
    "At least one valid recipient is required", "none of the recipients of this request can be sent to", "5002"
)


def invalid(description: str) -> ApiError:
    return ApiError("invalid data format/type", description, "1300")


def missing(field: str) -> ApiError:
    return ApiError("required field is missing", f"{field} is a required field", "1400")


def wrong_type(field: str, value: object, needed: str) -> ApiError:
    return invalid(f"field '{field}' is of type '{_json_type(value)}', but needs to be of type '{needed}'")


def not_available(field: str, what: str) -> Refusal:
    return Refusal(422, invalid(f"{field}: {what} not available in this release; remove the field"))


def bad_request(description: str) -> Refusal:
    return Refusal(400, ApiError("invalid params", description, "1200"))


def too_large(limit: int) -> Refusal:
    return Refusal(413, ApiError("request too large", f"the request is over the limit of {limit} bytes", "1300"))


def unsupported(description: str) -> Refusal:
    return Refusal(415, ApiError("unsupported Content-Type", description, "1700"))


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "json_array"
        case _:
            return "json_object"
