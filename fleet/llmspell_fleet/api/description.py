"""What the interface says of itself, made when it is first asked for."""

import functools

import msgspec

from llmspell_fleet.api import docs_page, openapi
from llmspell_fleet.api.route import Route


class Description:
    """The OpenAPI document, and the page for people."""

    def __init__(self, routes: tuple[Route, ...], version: str) -> None:
        self._routes = routes
        self._version = version

    @functools.cached_property
    def document(self) -> openapi.Json:
        """The document."""
        return openapi.document(self._routes, self._version)

    @functools.cached_property
    def json(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document)

    @functools.cached_property
    def page(self) -> docs_page.Page:
        """The page for people."""
        return docs_page.page(self.document)
