"""A client of a running fleet: its HTTP interface with types. The command line's only door to the controller.

Synchronous, and light to import: a command is a process that asks once.
"""

import contextlib
import http.client
import re
import urllib.parse
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from llmspell_fleet import presence
from llmspell_fleet.client_http import EVENT_STREAM, PROBLEM, Server, error_of, raise_problem, stream_messages
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, is_name
from llmspell_fleet.model.plan import ApplyView
from llmspell_fleet.model.requests import (
    ApplyRequest,
    DrainRequest,
    ExecuteRequest,
    ForwardedSignal,
    RollRequest,
    TenantChange,
    UpgradeRequest,
)
from llmspell_fleet.model.views import (
    ExecuteView,
    HealthView,
    KernelView,
    LogLine,
    Page,
    Problem,
    RollView,
    TenantCreated,
    TenantView,
    TokenView,
    UpgradeView,
)
from llmspell_fleet.model.why import WhyView
from llmspell_fleet.paths import FleetPaths
from llmspell_kernel import __version__
from llmspell_kernel.errors import LlmspellError, MisuseError, NotRunningError
from llmspell_kernel.safe_files import read_private

T = TypeVar("T")

_ANSWER_WITHIN_S = 15.0
"""For what the fleet answers from memory, and on top of what a request lets it wait for."""
_DELETED_WITHIN_S = 60.0
_UPGRADED_WITHIN_S = 90.0
"""On top of what it waits for: the new code is tried before it takes over."""
_RESTARTED_WITHIN_S = 60.0
_DELETED = (HTTPStatus.OK, HTTPStatus.NO_CONTENT)

_LONGEST_TOKEN_BYTES = 4096
_TOKEN = re.compile(r"[!-~]+", re.ASCII)


class Gap(msgspec.Struct, frozen=True):
    """So many were lost at this place of a stream: they were not read in time."""

    missed: int


class FleetClient:
    """A running fleet at `address`: ``http://HOST:PORT``, ``https://…`` or ``unix:PATH``.

    Every method raises what the fleet answers as the error that the fleet raised (`llmspell_fleet.errors`),
    NotRunningError when nobody is there, and LlmspellError when what is there does not answer in time or is no fleet.
    """

    def __init__(self, address: str, token: str) -> None:
        self._server = Server(address)
        self._token = token

    @classmethod
    def find(cls, paths: FleetPaths, url: str | None = None, token_file: str | None = None) -> "FleetClient":
        """The fleet at `url`, else the one that runs in `paths`; with the token of `token_file`, else the admin's.

        NotRunningError: none runs there. RefusedError: its files are not ours, or cannot be trusted. MisuseError:
        an address that is none, a token file that holds no token.
        """
        address = _own_address(paths) if url is None else url
        if token_file is None and not Server(address).is_local:
            raise MisuseError(
                f"{address} is on another machine, which this machine's admin token is not for: "
                "name a file that holds its token with --token-file"
            )
        return cls(address, read_token(paths, token_file))

    @property
    def address(self) -> str:
        """Where the fleet is."""
        return self._server.address

    # --- the fleet

    def health(self) -> HealthView:
        """How it is; also when that is bad."""
        return self._ask("GET", "/health", HealthView, accepted=(HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE))

    def events(self, *, since: int = 0) -> list[Event]:
        """What happened, as far back as it is kept: the events with a sequence number above `since`."""
        found: list[Event] = []
        at: str | None = str(since)
        while at is not None:
            page = self._ask("GET", _with_query("/v1/events", {"since": at}), Page[Event])
            found += page.items
            at = page.next
        return found

    def follow_events(self, *, since: int = 0) -> Iterator[Event | Gap]:
        """Those, and then the new ones as they come, until the fleet ends."""
        yield from self._stream("/v1/events", Event, timeout_s=None, since=str(since))

    def apply(self, request: ApplyRequest) -> ApplyView:
        """Have the fleet be as a configuration says, or say what that would change."""
        return self._ask("POST", "/v1/apply", ApplyView, body=_named(request))

    # --- tenants

    def create_tenant(self, tenant: str, wanted: TenantChange) -> TenantCreated:
        """Make a tenant; what `wanted` does not name is the fleet's default. Returns when its kernels are READY."""
        body = {"id": _name(tenant), **_named(wanted)}
        return self._ask("POST", "/v1/tenants", TenantCreated, body=body, timeout_s=wanted.wait_s + _ANSWER_WITHIN_S)

    def tenants(self, *, label: str | None = None) -> list[TenantView]:
        """All of them, or those with the labels of ``name=value,name``, by id; with a tenant's token, that one."""
        return self._ask("GET", _with_query("/v1/tenants", {"label": label}), Page[TenantView]).items

    def tenant(self, tenant: str) -> TenantView:
        """One of them."""
        return self._ask("GET", f"/v1/tenants/{_name(tenant)}", TenantView)

    def update_tenant(self, tenant: str, change: TenantChange) -> TenantView:
        """Change what it should have; returns as `create_tenant` does."""
        path = f"/v1/tenants/{_name(tenant)}"
        return self._ask("PATCH", path, TenantView, body=_named(change), timeout_s=change.wait_s + _ANSWER_WITHIN_S)

    def renew_token(self, tenant: str) -> TokenView:
        """Give it another token; those before open nothing any more."""
        return self._ask("POST", f"/v1/tenants/{_name(tenant)}/token", TokenView)

    def restart_tenant(self, tenant: str, request: RollRequest) -> RollView:
        """Give each of its kernels a new process, a few at a time; returns at the end or when `wait_s` ran out."""
        path = f"/v1/tenants/{_name(tenant)}/restart"
        timeout_s = request.wait_s + _ANSWER_WITHIN_S
        accepted = (HTTPStatus.OK, HTTPStatus.ACCEPTED)
        return self._ask("POST", path, RollView, body=_named(request), timeout_s=timeout_s, accepted=accepted)

    def upgrade(self, request: UpgradeRequest) -> UpgradeView:
        """Have the controller become the code that is installed now; returns when that serves."""
        timeout_s = request.wait_s + _UPGRADED_WITHIN_S
        return self._ask("POST", "/v1/upgrade", UpgradeView, body=_named(request), timeout_s=timeout_s)

    def delete_tenant(self, tenant: str) -> None:
        """End it; returns when its kernels are gone."""
        path = f"/v1/tenants/{_name(tenant)}"
        with self._request("DELETE", path, timeout_s=_DELETED_WITHIN_S, accepted=_DELETED):
            return

    # --- kernels

    def kernels(self, *, tenant: str | None = None, label: str | None = None) -> list[KernelView]:
        """A tenant's, or all that the token sees; those with the labels of ``name=value,name``."""
        every = self._ask("GET", _with_query("/v1/kernels", {"label": label}), Page[KernelView])
        return [kernel for kernel in every.items if tenant is None or kernel.tenant == tenant]

    def why(self, kernel: KernelId) -> WhyView:
        """Why it is as it is, and what comes next; also of one that has left for good."""
        return self._ask("GET", f"/v1/kernels/{kernel}/why", WhyView)

    def logs(self, kernel: KernelId, *, since: int = 0, grep: str | None = None) -> list[LogLine]:
        """The lines it wrote that are kept, with a sequence number above `since`, that hold `grep`."""
        kept = self._stream(
            f"/v1/kernels/{kernel}/logs", LogLine, timeout_s=_ANSWER_WITHIN_S, since=str(since), grep=grep
        )
        return [line for line in kept if isinstance(line, LogLine)]

    def follow_logs(self, kernel: KernelId, *, since: int = 0, grep: str | None = None) -> Iterator[LogLine | Gap]:
        """Those, and then the new ones as they come, until the fleet ends."""
        path = f"/v1/kernels/{kernel}/logs"
        yield from self._stream(path, LogLine, timeout_s=None, since=str(since), grep=grep, follow="true")

    def restart_kernel(self, kernel: KernelId) -> KernelView:
        """Give it a new process; returns when that is READY."""
        return self._ask("POST", f"/v1/kernels/{kernel}/restart", KernelView, timeout_s=_RESTARTED_WITHIN_S)

    def signal(self, target: KernelView | TenantView | None, name: ForwardedSignal) -> None:
        """Forward a signal to a kernel, to a tenant's kernels, or to all (None)."""
        with self._request("POST", f"{_path(target)}/signal", body={"signal": name}, accepted=_DELETED):
            return

    def drain(self, target: KernelView | TenantView | None, request: DrainRequest) -> list[KernelView]:
        """Let a kernel finish what it runs and end, or a tenant's, or all; those that were meant, as they are then."""
        path, body = f"{_path(target)}/drain", msgspec.to_builtins(request)
        timeout_s = request.wait_s + _ANSWER_WITHIN_S
        if isinstance(target, KernelView):
            return [self._ask("POST", path, KernelView, body=body, timeout_s=timeout_s)]
        if isinstance(target, TenantView):
            return self._ask("POST", path, TenantView, body=body, timeout_s=timeout_s).kernels
        every = self._ask("POST", path, Page[TenantView], body=body, timeout_s=timeout_s)
        return [kernel for tenant in every.items for kernel in tenant.kernels]

    # --- executions

    def execute(self, tenant: str, request: ExecuteRequest) -> ExecuteView:
        """Run code on one of the tenant's kernels; how the script fared is in the answer."""
        path = f"/v1/tenants/{_name(tenant)}/execute"
        # Without a time of its own the tenant's limit holds, which is not known here.
        timeout_s = None if request.timeout_s is None else request.timeout_s + _ANSWER_WITHIN_S
        return self._ask("POST", path, ExecuteView, body=_named(request), timeout_s=timeout_s)

    # --- how it is asked

    def _ask(
        self,
        method: str,
        path: str,
        expects: type[T],
        *,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = _ANSWER_WITHIN_S,
        accepted: tuple[int, ...] = (HTTPStatus.OK, HTTPStatus.CREATED),
    ) -> T:
        with self._request(method, path, body=body, timeout_s=timeout_s, accepted=accepted) as response:
            return self._decode(response.read(), expects, path)

    def _stream(self, path: str, of: type[T], *, timeout_s: float | None, **query: str | None) -> Iterator[T | Gap]:
        asked = _with_query(path, query)
        with self._request("GET", asked, accepts=EVENT_STREAM, timeout_s=timeout_s) as response:
            for message in stream_messages(iter(response.readline, b"")):
                if message.event == "problem":
                    raise error_of(self._decode(message.data, Problem, path))
                if message.event == "gap":
                    yield self._decode(message.data, Gap, path)
                else:
                    yield self._decode(message.data, of, path)

    @contextlib.contextmanager
    def _request(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        accepts: str = "application/json",
        timeout_s: float | None = _ANSWER_WITHIN_S,
        accepted: tuple[int, ...] = (HTTPStatus.OK,),
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer whose status is `accepted`; others are raised."""
        headers = {"Accept": accepts, "Authorization": f"Bearer {self._token}"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body)
        with self._server.request(method, path, headers=headers, body=content, timeout_s=timeout_s) as response:
            if response.status not in accepted or response.headers.get_content_type() == PROBLEM:
                raise_problem(self._server, response)
            yield response

    def _decode(self, content: bytes, expects: type[T], path: str) -> T:
        try:
            return msgspec.json.decode(content, type=expects)
        except msgspec.DecodeError as error:
            raise LlmspellError(
                f"the answer of {self.address} to {path} is not what llmspell {__version__} expects ({error}): "
                "is it llmspell's fleet, and of the same version?"
            ) from None


def read_token(paths: FleetPaths, token_file: str | None) -> str:
    """The token in `token_file`, whoever owns that; else the admin's of `paths`.

    MisuseError: no such file, or no token in it. RefusedError: it may not be read, or others could read the admin's.
    """
    path = paths.admin_token if token_file is None else token_file
    what = "admin token" if token_file is None else "token file"
    try:
        # A file that somebody names may be a link into a mounted secret; our own never is.
        content = read_private(path, what=what, limit_bytes=_LONGEST_TOKEN_BYTES, check_owner=token_file is None)
    except FileNotFoundError:
        raise MisuseError(
            f"there is no {what} {path}: the fleet writes its admin token to admin.token in its state directory "
            "(--state-dir); name another file with --token-file"
        ) from None
    token = content.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token):
        # Never with what was found: it may be a token with a slip in it.
        raise MisuseError(f"the {what} {path} should hold one token on one line and does not")
    return token


def _own_address(paths: FleetPaths) -> str:
    running = presence.find(paths)
    if running is None:
        raise NotRunningError(
            f"no fleet is running in {paths.runtime}: start one with `llmspell fleet up`, "
            "or name where it is with --runtime-dir or --url"
        )
    if running.address is None:
        raise NotRunningError(
            f"the fleet in {paths.runtime} does not serve at this moment, process {running.record.pid}: "
            "it is starting or ending; `llmspell fleet logs` tells"
        )
    # The socket lies in a directory that is ours alone; whoever answers at a port could be anybody.
    return f"unix:{running.address.socket}"


def _path(target: KernelView | TenantView | None) -> str:
    if target is None:
        return "/v1"
    return f"/v1/{'kernels' if isinstance(target, KernelView) else 'tenants'}/{target.id}"


def _name(tenant: str) -> str:
    if not is_name(tenant):
        raise MisuseError(
            f"expected a tenant's name of up to 63 characters of a-z, 0-9, _ and -, found {tenant[:80]!r}"
        )
    return tenant


def _named(asked: msgspec.Struct) -> dict[str, Any]:
    """What was asked for; members that are None were not named, on every level."""
    members = _without_none(msgspec.to_builtins(asked))
    if isinstance(asked, TenantChange) and asked.autoscale is None:
        members["autoscale"] = None  # its way to say that there is to be none
    return members


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in members.items()
        if value is not None
    }


def _with_query(path: str, query: dict[str, str | None]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urllib.parse.urlencode(given)}" if given else path
