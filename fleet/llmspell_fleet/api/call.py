"""One request, as handlers see it."""

import re
from collections.abc import Callable
from typing import Final, cast

import msgspec
from aiohttp import web

from llmspell_fleet.api.auth import Principal
from llmspell_fleet.api.connection import Connection
from llmspell_fleet.api.description import Description
from llmspell_fleet.api.fleet import Fleet
from llmspell_fleet.api.followers import Followers
from llmspell_fleet.api.options import HttpOptions, MetricsPort
from llmspell_fleet.errors import NotFoundError
from llmspell_fleet.model.ids import KernelId, TenantId, is_kernel_id, is_name

_OPAQUE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

IDS: Final[dict[str, Callable[[str], object]]] = {
    "tenant": is_name,
    "kernel": is_kernel_id,
    "execution": _OPAQUE.fullmatch,
    "lease": _OPAQUE.fullmatch,
}
"""What the ids in paths look like, by the parameter's name."""


class Api(msgspec.Struct, frozen=True):
    """What all handlers work with."""

    fleet: Fleet
    metrics: MetricsPort
    options: HttpOptions
    followers: Followers
    description: Description


class Call:
    """One authorised request."""

    __slots__ = ("api", "ids", "principal", "request", "request_id")

    def __init__(
        self, api: Api, request: web.BaseRequest, request_id: str, principal: Principal | None, ids: dict[str, str]
    ) -> None:
        self.api = api
        self.request = request
        self.request_id = request_id
        self.principal = principal
        self.ids = ids

    @property
    def fleet(self) -> Fleet:
        """The controller."""
        return self.api.fleet

    @property
    def tenant(self) -> TenantId:
        """The tenant in the path."""
        return TenantId(self.ids["tenant"])

    @property
    def kernel(self) -> KernelId:
        """The kernel in the path."""
        return KernelId(self.ids["kernel"])

    @property
    def owner(self) -> TenantId | None:
        """Whose things the caller may see; None = everybody's."""
        return self.principal.tenant if self.principal is not None else None

    def let_be_fetched(self) -> None:
        """The answer to this can be had again by asking again: an upgrade need not wait for it."""
        cast(Connection, self.request.protocol).is_fetchable = True

    def check_tenant(self) -> None:
        """NotFoundError for another tenant's id: whether there is one is not the caller's to know."""
        owner = self.owner
        if owner is not None and self.ids.get("tenant", owner) != owner:
            raise _absent("tenant", self.ids["tenant"])

    def check_ids(self) -> None:
        """NotFoundError for ids that nothing can have."""
        for name, text in self.ids.items():
            if not IDS[name](text):
                raise _absent(name, text)


def _absent(name: str, text: str) -> NotFoundError:
    return NotFoundError(f"there is no {name} {text[:100]!r}")
