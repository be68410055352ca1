"""Bodies and query strings: bounded, and refused with a message that names what is wrong."""

import asyncio
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from llmspell_fleet.api.answers import JSON
from llmspell_fleet.api.expected import explained
from llmspell_fleet.api.problems import (
    BodyTooLargeError,
    ExpectationError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
)
from llmspell_fleet.errors import BadRequestError

MAX_QUERY_MEMBERS: Final = 16


async def read_body(request: web.BaseRequest, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The body, all of it. BodyTooLargeError, RequestTimeoutError, UnsupportedMediaTypeError, ExpectationError."""
    content = request.content
    if content.is_eof():
        body = bytes(content.read_nowait())
        if body:
            _check_kind(request)
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        return body
    _check_kind(request)
    if (request.content_length or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    await _answer_expectation(request)
    pieces = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while piece := await content.readany():
                pieces += piece
                if len(pieces) > limit_bytes:
                    raise _too_large(limit_bytes)
    except TimeoutError:
        raise RequestTimeoutError(
            f"the body did not arrive within {timeout_s:g} s: {len(pieces)} bytes came", is_last=True
        ) from None
    except web.RequestPayloadError as error:
        raise BadRequestError(f"the body ended early or is not framed as HTTP/1.1: {error}") from None
    return bytes(pieces)


def decode_body(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    """The body as its type. BadRequestError says what is wrong, and with which member."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"the body does not have its form: {explained(error, decoder.type)}") from None
    except UnicodeDecodeError as error:
        raise BadRequestError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error) if body.strip() else "it is empty"
        raise BadRequestError(f"the body must be a JSON object: {reason}") from None


def decode_query(text: str, type_: type[msgspec.Struct] | None) -> Any:
    """The query string as its type; without a type, nothing may be in it. BadRequestError."""
    if not text:
        return type_() if type_ is not None else None
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_QUERY_MEMBERS
        )
    except ValueError:
        raise BadRequestError("the query must be of the form name=value&name=value, percent-encoded UTF-8") from None
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRequestError("a name is in the query twice")
    if type_ is None:
        raise BadRequestError(f"this takes no query: {next(iter(members))[:100]!r} is not known")
    try:
        return msgspec.convert(members, type_, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(type_.__struct_fields__)
        told = explained(error, type_).replace("$.", "")
        raise BadRequestError(f"the query is wrong: {told} (known: {known})") from None


CURLS_OWN: Final = "application/x-www-form-urlencoded"


def _check_kind(request: web.BaseRequest) -> None:
    headers = request.headers
    if "Content-Encoding" in headers:
        raise UnsupportedMediaTypeError("bodies are taken as they are: send no Content-Encoding")
    kind = headers.get("Content-Type")
    if kind is None or kind == JSON:
        return
    essence, _, parameters = kind.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    # `curl -d` says form unless told otherwise. No browser's form gets here with a token, so nothing is lost by it.
    if essence.strip() not in {JSON, CURLS_OWN} or charset not in {"", "charset=utf-8"}:
        raise UnsupportedMediaTypeError(
            f"the body must be JSON in UTF-8: send 'Content-Type: application/json', not {kind[:100]!r}"
        )


async def _answer_expectation(request: web.BaseRequest) -> None:
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise ExpectationError(f"100-continue is the one expectation that is met, not {expectation[:100]!r}")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is longer than {limit_bytes} bytes, which is the most that is taken", is_last=True
    )
