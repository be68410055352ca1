"""The description of the interface: complete, consistent, and a page that needs nothing from elsewhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema
import msgspec
import pytest

from llmspell_fleet.api import docs_page, openapi
from llmspell_fleet.api.auth import Access
from llmspell_fleet.api.route import Route
from llmspell_fleet.api.routes import ROUTES
from support.fake_fleet import serving

DOCUMENT = openapi.document(ROUTES, "1.2.3")
PAGE = docs_page.page(DOCUMENT)


def _walk(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from _walk(member)
    elif isinstance(value, list):
        for member in value:
            yield from _walk(member)


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = DOCUMENT["paths"][route.path][route.method.lower()]
    return operation


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": DOCUMENT["components"]}


def test_every_route_is_there_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert described == {(route.method, route.path) for route in ROUTES}
    assert len({_operation(route)["operationId"] for route in ROUTES}) == len(ROUTES)


def test_every_reference_leads_somewhere() -> None:
    references = {node["$ref"] for node in _walk(DOCUMENT) if "$ref" in node}

    assert references
    assert {one.removeprefix("#/components/schemas/") for one in references} <= set(DOCUMENT["components"]["schemas"])


def test_every_schema_is_a_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_is_described_in_full(route: Route) -> None:
    operation = _operation(route)
    parameters = {(one["in"], one["name"]) for one in operation.get("parameters", [])}
    statuses = {int(status) for status in operation["responses"]}

    assert operation["summary"]
    assert (operation["security"] == []) == (route.access is Access.OPEN)
    assert {("path", name) for name in route.parameters} <= parameters
    assert set(route.replies) | {403} <= statuses
    assert (401 in statuses) == (route.access is not Access.OPEN)
    assert all("description" in reply for reply in operation["responses"].values())
    assert ("requestBody" in operation) == (route.body is not None)
    if route.body is not None:
        assert {400, 413, 415} <= statuses
        content = operation["requestBody"]["content"]["application/json"]
        jsonschema.validate(content["example"], _resolved(content["schema"]))
        assert msgspec.convert(content["example"], route.body) == route.example


def test_fields_have_their_descriptions() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    assert schemas["TenantRequest"]["properties"]["wait_s"]["description"].startswith("How long to wait")
    assert schemas["Limits"]["properties"]["memory_bytes"]["description"] == "Lua's heap, each kernel."
    assert schemas["Death"]["properties"]["at"]["description"].startswith("ISO 8601")


@pytest.mark.parametrize(
    ("path", "accept"),
    [("/v1/tenants/{tenant}/execute", "post"), ("/v1/events", "get"), ("/v1/kernels/{kernel}/logs", "get")],
)
def test_streams_are_described(path: str, accept: str) -> None:
    assert "text/event-stream" in DOCUMENT["paths"][path][accept]["responses"]["200"]["content"]


class _Tags(HTMLParser):
    """Checks that tags are closed in order, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_names_every_route() -> None:
    parser = _Tags()
    text = PAGE.html.decode()
    parser.feed(text)

    assert parser.open == []
    for route in ROUTES:
        assert f"<code>{route.path}</code>" in text
    assert text.count("curl") >= len(ROUTES)


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    parser = _Tags()
    parser.feed(PAGE.html.decode())

    assert not {tag for tag, _ in parser.seen} & {"script", "link", "img", "iframe", "form", "object"}
    assert not [attributes for _, attributes in parser.seen if {"style", "src"} & attributes.keys()]
    assert not [name for _, attributes in parser.seen for name in attributes if name.startswith("on")]
    assert all(str(attributes["href"]).startswith(("#", "/")) for _, attributes in parser.seen if "href" in attributes)
    assert not re.search(r"url\(|@import", PAGE.html.decode())
    assert "unsafe" not in PAGE.content_policy


def test_text_from_elsewhere_is_text() -> None:
    document = openapi.document(ROUTES, "<script>alert(1)</script>")

    assert b"<script" not in docs_page.page(document).html


@pytest.mark.integration
@pytest.mark.asyncio
async def test_both_are_served() -> None:
    async with serving() as site:
        described = await site.ask("GET", "/openapi.json", who=None)
        page = await site.ask("GET", "/docs", who=None)

    assert described.json == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    assert page.headers["Content-Security-Policy"] == PAGE.content_policy
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.body == PAGE.html
