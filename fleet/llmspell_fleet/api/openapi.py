"""The interface as an OpenAPI 3.1 document, made from the route table and the types of its bodies."""

import ast
import inspect
import sys
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from llmspell_fleet.api.answers import JSON, PROBLEM
from llmspell_fleet.api.auth import Access
from llmspell_fleet.api.route import Route
from llmspell_fleet.model.ids import NAME
from llmspell_fleet.model.views import Problem

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_OPAQUE: Final[Json] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}

PARAMETERS: Final[dict[str, Json]] = {
    "tenant": {"description": "The tenant's name.", "schema": {"type": "string", "pattern": NAME}, "example": "acme"},
    "kernel": {
        "description": "The kernel's id: a UUID in lower case.",
        "schema": {"type": "string", "format": "uuid"},
        "example": "0b5ee0d4-4b5c-4b0e-9f0b-2f7f6a6f2c11",
    },
    "execution": {"description": "As the 202 answer names it.", "schema": _OPAQUE, "example": "e1"},
    "lease": {"description": "As the connection names it.", "schema": _OPAQUE, "example": "l1"},
}

GROUPS: Final = {
    "service": "Whether it runs, how it is, and what it offers.",
    "apply": "Having the fleet be as a configuration says.",
    "upgrade": "Replacing the controller's code.",
    "tenants": "Who kernels belong to, what they may use, and running code on them.",
    "kernels": "Single Lua processes.",
    "leases": "Kernels lent to Jupyter clients.",
    "events": "What happened.",
}

WHO: Final = {
    Access.OPEN: "Open to everybody.",
    Access.WATCH: "For tokens of kind viewer and admin, or for everybody when metrics are public.",
    Access.READ: "For every token; a tenant's sees what is its own.",
    Access.TENANT: "For tokens of kind admin, and the tenant's own.",
    Access.ADMIN: "For tokens of kind admin.",
}


def document(routes: tuple[Route, ...], version: str) -> Json:
    """The document."""
    types = [Problem, *_types(routes)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    _describe(components)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmspell fleet",
            "version": version,
            "description": "Lua script kernels as a service. Errors are problem documents (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in GROUPS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Never in a URL; 'token X' will do too."}
            },
        },
    }


def brief(value: msgspec.Struct) -> Json:
    """A struct as JSON without the members that have their defaults."""
    members = {}
    for field in msgspec.structs.fields(value):
        member = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if member != default:
            members[field.encode_name] = brief(member) if isinstance(member, msgspec.Struct) else member
    return members


def _types(routes: Sequence[Route]) -> Iterator[Any]:
    seen: set[Any] = set()
    for route in routes:
        for type_ in (route.body, route.query, *route.replies.values()):
            if type_ is not None and not isinstance(type_, str) and type_ not in seen:
                seen.add(type_)
                yield type_


def _operation(route: Route, schema_of: dict[Any, Json], components: dict[str, Json]) -> Json:
    operation: Json = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}",
        "tags": [route.group],
        "summary": route.summary,
        "description": f"{route.description}\n\n{WHO[route.access]}".strip(),
        "security": [] if route.access is Access.OPEN else [{"token": []}],
        "responses": {
            **{str(status): _reply(route, status, type_, schema_of) for status, type_ in route.replies.items()},
            **{str(status): _problem(status, schema_of) for status in _problems(route) if status not in route.replies},
        },
    }
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, **PARAMETERS[name]} for name in route.parameters
    ]
    if route.query is not None:
        component = components[route.query.__name__]
        for name, schema in component["properties"].items():
            text = schema.get("description", "")
            parameters.append({"name": name, "in": "query", "required": False, "description": text, "schema": schema})
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content: Json = {"schema": schema_of[route.body]}
        if route.example is not None:
            content["example"] = brief(route.example)
        operation["requestBody"] = {"required": not route.is_body_optional, "content": {JSON: content}}
    return operation


def _reply(route: Route, status: int, type_: Any, schema_of: dict[Any, Json]) -> Json:
    reply: Json = {"description": HTTPStatus(status).phrase}
    if isinstance(type_, str):
        schema = {"type": "object"} if type_ == JSON else {"type": "string"}
        reply["content"] = {type_.partition(";")[0]: {"schema": schema}}
    elif type_ is not None:
        reply["content"] = {JSON: {"schema": schema_of[type_]}}
    if status == 200:
        for stream in route.streams:
            reply["content"][stream] = {"schema": {"type": "string"}}
    if status in {201, 202}:
        reply["headers"] = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}
    return reply


def _problem(status: int, schema_of: dict[Any, Json]) -> Json:
    problem: Json = {"description": HTTPStatus(status).phrase, "content": {PROBLEM: {"schema": schema_of[Problem]}}}
    if status in {429, 503}:
        wait = {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}
        problem["headers"] = {"Retry-After": wait}
    return problem


def _problems(route: Route) -> list[int]:
    statuses = {403, *route.problems}
    if route.access is not Access.OPEN:
        statuses.add(401)
    if route.parameters:
        statuses.add(404)
    if route.query is not None:
        statuses.add(400)
    if route.body is not None:
        statuses |= {400, 404, 408, 413, 415} if route.group != "leases" else {400, 408, 413, 415}
    return sorted(statuses)


def _describe(components: dict[str, Json]) -> None:
    """Give each property the description that stands below its field in the source."""
    texts = _field_texts()
    for name, component in components.items():
        own = texts.get(name) or texts.get(name.partition("_")[0], {})
        for field, property_ in component.get("properties", {}).items():
            if field in own:
                property_["description"] = own[field]


def _field_texts() -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("llmspell_fleet.model.", "llmspell_fleet.api.queries")):
            for node in ast.parse(inspect.getsource(module)).body:
                if isinstance(node, ast.ClassDef):
                    inherited = [texts.get(base.id, {}) for base in node.bases if isinstance(base, ast.Name)]
                    texts[node.name] = {
                        key: text for fields in (*inherited, _texts_in(node)) for key, text in fields.items()
                    }
    return texts


def _texts_in(node: ast.ClassDef) -> dict[str, str]:
    texts = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(after.value.value)
    return texts
