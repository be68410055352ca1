"""Errors as answers, and the errors that HTTP itself has."""

import math

import msgspec

from llmspell_fleet.api.answers import PROBLEM, Answer
from llmspell_fleet.errors import FleetError, TooLargeError
from llmspell_fleet.problems import problem_of


class HttpError(FleetError):
    """A request that fails as HTTP, before it means anything to the fleet."""

    def __init__(self, message: str, *, headers: dict[str, str] | None = None, is_last: bool = False) -> None:
        super().__init__(message)
        self.headers = headers
        self.is_last = is_last


class MethodNotAllowedError(HttpError):
    """The path exists, with other methods."""

    status = 405
    title = "Method not allowed"


class RequestTimeoutError(HttpError):
    """The request did not arrive in time."""

    status = 408
    title = "Request timeout"


class BodyTooLargeError(HttpError, TooLargeError):
    """The body is longer than is taken."""


class UnsupportedMediaTypeError(HttpError):
    """The body is not JSON, or is encoded."""

    status = 415
    title = "Unsupported media type"


class ExpectationError(HttpError):
    """An Expect header that is not 100-continue."""

    status = 417
    title = "Expectation failed"


class HeadersTooLargeError(HttpError):
    """A request line or header that is longer than is taken."""

    status = 431
    title = "Request header fields too large"


class InternalError(FleetError):
    """A fault of ours; the log has it."""


def problem_answer(error: FleetError) -> Answer:
    """The answer that tells of `error`."""
    headers = dict(error.headers or {}) if isinstance(error, HttpError) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="llmspell"'
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return Answer(
        error.status,
        msgspec.json.encode(problem_of(error)),
        PROBLEM,
        headers=headers,
        is_last=isinstance(error, HttpError) and error.is_last,
    )
