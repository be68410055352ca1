"""Who is asking, from where, and whether they may."""

import enum
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, Protocol

from llmspell_fleet.errors import ForbiddenError, UnauthorizedError
from llmspell_fleet.model.ids import TenantId

LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})

MAX_TOKEN: Final = 1000
"""Characters; ours have fewer than a tenth of it."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::[0-9]{1,5})?", re.ASCII)


class Principal(Protocol):
    """Who a token belongs to."""

    @property
    def kind(self) -> Literal["admin", "viewer", "tenant"]:
        """What kind of token it is."""
        ...

    @property
    def tenant(self) -> TenantId | None:
        """Whose, if it is a tenant's."""
        ...


class Access(enum.Enum):
    """Who may use a route: the kinds of token."""

    OPEN = frozenset[str]()
    """Everybody, without a token."""
    WATCH = frozenset({"viewer", "admin"})
    """Those who watch the fleet; everybody when metrics are public."""
    READ = frozenset({"viewer", "tenant", "admin"})
    """Everybody with a token, tenants what is theirs."""
    TENANT = frozenset({"tenant", "admin"})
    """A tenant what is its own, and the administrator."""
    ADMIN = frozenset({"admin"})


class Guard:
    """Decides on a request's Host, Origin and token, in that order and before anything else is looked at."""

    def __init__(
        self,
        principal_of: Callable[[str], Principal | None],
        *,
        allowed_hosts: Iterable[str],
        allowed_origins: Iterable[str],
        is_metrics_public: bool,
    ) -> None:
        self._principal_of = principal_of
        self.allow(allowed_hosts, allowed_origins, is_metrics_public=is_metrics_public)

    def allow(self, hosts: Iterable[str], origins: Iterable[str], *, is_metrics_public: bool) -> None:
        """Decide by these from now on."""
        self._hosts = LOCAL_HOSTS | {host.lower().strip("[]") for host in hosts}
        self._origins = [_origin_pattern(origin) for origin in origins]
        self._is_metrics_public = is_metrics_public
        self._is_known_host = functools.lru_cache(maxsize=256)(self._is_allowed_host)

    def check_source(self, headers: Mapping[str, str]) -> None:
        """ForbiddenError for a host that is not ours (a rebound name), or a web page that is not allowed."""
        host = headers.get("Host", "")
        if not self._is_known_host(host):
            raise ForbiddenError(
                f"the request is addressed to host {host[:100]!r}, which is not served here; "
                "use localhost, or add the name to allowed_hosts"
            )
        origin = headers.get("Origin")
        if origin is not None:
            if not any(pattern.fullmatch(origin) for pattern in self._origins):
                raise ForbiddenError(f"web pages of {origin[:100]!r} may not ask here; add it to allowed_origins")
        elif headers.get("Sec-Fetch-Site") == "cross-site":
            raise ForbiddenError("web pages of other sites may not ask here")

    def identify(self, access: Access, headers: Mapping[str, str]) -> Principal | None:
        """Who is asking; None = anybody, on a route where that will do. UnauthorizedError."""
        if access is Access.OPEN or (access is Access.WATCH and self._is_metrics_public):
            return None
        header = headers.get("Authorization")
        if header is None:
            raise UnauthorizedError("a token is needed: send the header 'Authorization: Bearer TOKEN'")
        scheme, _, token = header.partition(" ")
        if scheme.lower() not in {"bearer", "token"} or not token:
            raise UnauthorizedError("the Authorization header must read 'Bearer TOKEN'")
        principal = self._principal_of(token) if token.isascii() and len(token) <= MAX_TOKEN else None
        if principal is None:
            raise UnauthorizedError("nobody has this token, or not any more")
        return principal

    def permit(self, access: Access, principal: Principal | None) -> None:
        """ForbiddenError when a token of this kind is not for this."""
        if principal is not None and principal.kind not in access.value:
            raise ForbiddenError(
                f"this needs a token of kind {' or '.join(sorted(access.value))}; this one's is {principal.kind}"
            )

    def _is_allowed_host(self, host: str) -> bool:
        lowered = host.lower()
        if lowered in self._hosts:
            return True
        match = _HOST.fullmatch(lowered)
        return match is not None and match[1].strip("[]") in self._hosts


def _origin_pattern(origin: str) -> re.Pattern[str]:
    if origin.endswith(":*"):
        return re.compile(re.escape(origin[:-2]) + r"(?::[0-9]{1,5})?", re.ASCII)
    return re.compile(re.escape(origin))
