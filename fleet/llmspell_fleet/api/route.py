"""What a route is, and how a request finds its route."""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, get_type_hints

import msgspec

from llmspell_fleet.api.answers import Reply
from llmspell_fleet.api.auth import Access
from llmspell_fleet.api.problems import MethodNotAllowedError
from llmspell_fleet.errors import NotFoundError

_THINGS: Final = frozenset({"tenants", "kernels", "leases", "events"})
"""What routes below `/v1` are about; the others are about the fleet."""

_PARAMETER: Final = re.compile(r"\{(\w+)\}")

Handler = Callable[..., Awaitable[Reply]]
"""Of a `Call`, then the body if it has one, then the query if it has one."""


class Route(msgspec.Struct, frozen=True):
    """One row of the interface: everything that the server and its description know of it."""

    method: str
    path: str
    handler: Handler
    access: Access
    replies: dict[int, Any]
    """What it answers with when it works: by status a type, a content type, or None for no body."""
    body: type[msgspec.Struct] | None
    query: type[msgspec.Struct] | None
    decoder: "msgspec.json.Decoder[Any] | None"
    parameters: tuple[str, ...]
    """The names of the ids in its path."""
    is_body_optional: bool = False
    streams: tuple[str, ...] = ()
    """The content types of its streams, besides."""
    problems: tuple[int, ...] = ()
    """The statuses of the fleet's own refusals, besides those that follow from the rest."""
    example: msgspec.Struct | None = None
    """A body, for its description."""

    @property
    def group(self) -> str:
        """What it is about."""
        parts = self.path.split("/")
        return parts[2] if parts[1] == "v1" and parts[2] in _THINGS else "service"

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return _documentation(self.handler)[0]

    @property
    def description(self) -> str:
        """The rest of what there is to say."""
        return _documentation(self.handler)[1]


def route(method: str, path: str, handler: Handler, access: Access, replies: dict[int, Any], **further: Any) -> Route:
    """A route whose body and query are what its handler's annotations say."""
    hints = get_type_hints(handler)
    body = hints.get("body")
    return Route(
        method,
        path,
        handler,
        access,
        replies,
        body,
        hints.get("query"),
        msgspec.json.Decoder(body) if body is not None else None,
        tuple(_PARAMETER.findall(path)),
        **further,
    )


class RouteTable:
    """Finds the route of a method and a path as it came over the wire: nothing is decoded or normalised."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for one in routes:
            node = self._root
            for part in one.path[1:].split("/"):
                node = node.child(part)
            node.routes[one.method] = one

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and the ids in the path. NotFoundError, MethodNotAllowedError."""
        node = self._root
        found: list[str] = []
        for part in path[1:].split("/"):
            next_node = node.literals.get(part)
            if next_node is None and part:
                next_node = node.parameter
                found.append(part)
            if next_node is None:
                raise _no_such_path(path)
            node = next_node
        if not node.routes or path[:1] != "/":
            raise _no_such_path(path)
        match = node.routes.get("GET" if method == "HEAD" else method)
        if match is None:
            allowed = sorted(node.routes.keys() | ({"HEAD"} if "GET" in node.routes else set()))
            raise MethodNotAllowedError(
                f"{method[:20]} is not possible here, only {', '.join(allowed)}", headers={"Allow": ", ".join(allowed)}
            )
        return match, dict(zip(match.parameters, found, strict=True)) if found else {}


class _Node:
    """A place in the tree of paths."""

    __slots__ = ("literals", "parameter", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, Route] = {}

    def child(self, part: str) -> "_Node":
        if not part.startswith("{"):
            return self.literals.setdefault(part, _Node())
        self.parameter = self.parameter or _Node()
        return self.parameter


def _no_such_path(path: str) -> NotFoundError:
    return NotFoundError(f"there is nothing at {path[:100]!r}; GET /docs lists what there is")


def _documentation(handler: Handler) -> tuple[str, str]:
    summary, _, rest = (inspect.getdoc(handler) or "").partition("\n")
    return summary.rstrip("."), rest.strip()
