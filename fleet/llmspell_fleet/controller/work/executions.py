"""The balanced route: admitted, given to a kernel, answered; tried elsewhere if it never began, and never run twice."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

import msgspec

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.tenant import Tenant, own_session
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.errors import KernelDiedError, TooLargeError, TooManyError, UnavailableError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import ExecuteRequest
from llmspell_fleet.policy.admit import Denied, admit
from llmspell_fleet.policy.events import StartAsked, Unresponsive
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK, wakes
from llmspell_fleet.router.channel import Channel, Lost
from llmspell_fleet.store.records import Placed

EXPIRY_S: Final = 0.050
"""How long after its time a kernel that has not answered an execution is asked not to begin it any more."""

LADDER_S: Final = 3.0
"""How long after its time an execution that has begun may take to be stopped, replacement of the process included."""

READY_RETRY_S: Final = 1.0

ENVELOPE_BYTES: Final = 4096
"""What a message to a kernel holds besides the code."""

_COMING: Final = HAS_PROCESS | {Phase.BACKOFF, Phase.PENDING}
"""A kernel that is in one of these takes work sooner or later."""

_EXPIRED: Final = (
    b'{"status":"timeout","execution_count":null,"stdout":"","stderr":"","result":null,"data":null,'
    b'"error":{"name":"ExecutionTimeout","message":"%b","traceback":["ExecutionTimeout: %b"]},"duration_s":%.6f}'
)
_BEFORE_STATUS: Final = b'{"status":"'
_NOT_BEGUN: Final = b"not begun: the kernel was busy with others until its time was over"
_DEAF: Final = b"the kernel did not answer an execution whose time was over, and is replaced"


class ExecutionMetrics(Protocol):
    """What is counted here."""

    def execution_finished(self, tenant: TenantId, status: str, seconds: float) -> None:
        """An execution was answered, so long after it was asked for."""
        ...

    def execution_refused(self, tenant: TenantId, reason: str) -> None:
        """An execution never began."""
        ...

    def execution_retried(self, tenant: TenantId) -> None:
        """An execution goes to another kernel."""
        ...


class Executions:
    """Runs code on tenants' kernels. Belongs to the event loop."""

    def __init__(
        self,
        tenants: Tenants,
        supervisor: Supervisor,
        metrics: ExecutionMetrics,
        *,
        fails_over: bool,
        has_quotas: bool,
        later: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`later` does something in the background."""
        self._loop = asyncio.get_running_loop()
        self._tenants = tenants
        self._supervisor = supervisor
        self._metrics = metrics
        self.fails_over = fails_over
        self.has_quotas = has_quotas
        self._later = later
        self._count = 0

    def reserve(self, tenant: Tenant) -> None:
        """Take one of the tenant's places, which the caller gives back (`release`). TooManyError: there is none."""
        if self.has_quotas:
            admitted = admit(tenant.spec.limits, tenant.executions, tenant.bucket, now=self._loop.time())
            if isinstance(admitted, Denied):
                self._metrics.execution_refused(tenant.id, admitted.limit)
                raise TooManyError(admitted.detail, retry_after_s=admitted.retry_after_s, limit=admitted.limit)
            tenant.bucket = admitted.bucket
        tenant.executions += 1

    def release(self, tenant: Tenant) -> None:
        """Give a place back."""
        tenant.executions -= 1

    def check_size(self, tenant: Tenant, code: str) -> None:
        """TooLargeError: a kernel would cut the connection that brings it such a message."""
        room = tenant.spec.limits.max_message_bytes - ENVELOPE_BYTES
        # Quoting makes at most six bytes of a character; only what may not fit is measured.
        if len(code) * 6 > room and (found := len(msgspec.json.encode(code))) > room:
            raise TooLargeError(
                f"the code takes {found} bytes, and the tenant's max_message_bytes leaves room for {max(0, room)}: "
                "send less, or raise the limit"
            )

    async def run(
        self,
        tenant: Tenant,
        request: ExecuteRequest,
        *,
        execution: str = "",
        on_output: Callable[[str, bytes], None] | None = None,
        record: Callable[[Placed], Awaitable[None]] | None = None,
    ) -> bytes:
        """Run code in a place that was reserved; returns an `ExecuteView` as JSON.

        Where it is about to be sent, `record` is told before, each time; StoreError of it: it is not sent.
        UnavailableError: no kernel became ready in time. KernelDiedError: one died while it ran this.
        """
        self.check_size(tenant, request.code)
        begun_at = self._loop.time()
        limit_s = tenant.spec.limits.execution_timeout_s
        timeout_s = request.timeout_s if request.timeout_s is not None else limit_s
        is_clipped = bool(limit_s) and timeout_s > limit_s
        if is_clipped:
            timeout_s = limit_s
        due = begun_at + timeout_s if timeout_s else None
        self._count += 1
        name = execution or f"e{self._count}"
        is_reset = False
        while True:
            entry, channel = await self._kernel(tenant, request.session, due)
            if channel.is_full:
                self._metrics.execution_refused(tenant.id, "kernel_full")
                raise UnavailableError(
                    f"not begun: kernel {entry.id} has not taken yet what it was sent; send again later",
                    retry_after_s=READY_RETRY_S,
                )
            session = request.session or own_session(entry)
            if request.session is not None and tenant.settle(session, entry.id, entry.kernel.incarnation):
                is_reset = True
            head = _head(entry.id, session, is_reset=is_reset, clipped_s=timeout_s if is_clipped else None)
            tenant.pool.add_load(entry.id, 1)
            try:
                if record is not None:
                    ticket = channel.last_ticket
                    await record(
                        Placed(
                            id=name,
                            kernel_id=entry.id,
                            incarnation=entry.kernel.incarnation,
                            after_ticket=ticket,
                            head=head,
                        )
                    )
                    if entry.channel is not channel or entry.kernel.phase not in TAKES_WORK:
                        continue
                left_s = max(0.001, due - self._loop.time()) if due is not None else 0.0
                answer = channel.send(
                    name, request.code, timeout_s=left_s, on_output=on_output, is_recorded=record is not None
                )
                expiry = self._loop.call_at(due + EXPIRY_S, self._expire, entry, channel, answer) if due else None
                try:
                    content = await answer
                finally:
                    if expiry is not None:
                        expiry.cancel()
            except Lost as lost:
                if self.fails_over and not lost.had_begun:
                    self._metrics.execution_retried(tenant.id)
                    continue
                self._metrics.execution_finished(tenant.id, "died", self._loop.time() - begun_at)
                raise KernelDiedError(died(entry.id, lost), lost.death) from None
            finally:
                tenant.pool.add_load(entry.id, -1)
            break
        # The reply begins with its status: see `router.said`.
        status = content[len(_BEFORE_STATUS) : content.index(b'"', len(_BEFORE_STATUS))].decode()
        self._metrics.execution_finished(tenant.id, status, self._loop.time() - begun_at)
        return b"".join((head, memoryview(content)[1:]))  # of a long one no copy more than that

    async def place(self, tenant: Tenant, session: str | None, due: float) -> tuple[Entry, str]:
        """A kernel for a session that will come another way, and the session's name."""
        entry, _channel = await self._kernel(tenant, session, due)
        name = session or own_session(entry)
        tenant.settle(name, entry.id, entry.kernel.incarnation, is_told=False)
        return entry, name

    async def _kernel(self, tenant: Tenant, session: str | None, due: float | None) -> tuple[Entry, Channel]:
        """A kernel that takes work, waited for until `due`."""
        if session is not None:
            tenant.recognise(session)
        while True:
            if tenant.is_leaving or self._supervisor.is_closing:
                what = f"tenant {tenant.id} is being deleted" if tenant.is_leaving else "the fleet is shutting down"
                raise UnavailableError(what)
            chosen = tenant.pool.choose(tenant.spec.strategy, session, tenant.homes)
            if chosen is not None:
                entry = tenant.entries[chosen]
                if entry.channel is not None:
                    return entry, entry.channel
            if not self._wake(tenant, session):
                await self._wait(tenant, due)

    def _wake(self, tenant: Tenant, session: str | None) -> bool:
        """Nobody takes this work: start who ended for want of it, the session's own kernel first.

        Whether to choose again at once.
        """
        home = tenant.homes.get(session) if session is not None else None
        entry = tenant.entries.get(home) if home is not None else None
        if entry is not None and entry.kernel.phase is Phase.FAILED:
            tenant.leave_home(session or "")  # it will not come back by itself: the session is placed anew
            return True
        sleeping = [e for e in tenant.entries.values() if wakes(e.kernel)]
        if entry in sleeping:
            self._supervisor.apply(entry, StartAsked())
        elif sleeping and not any(e.kernel.phase in _COMING for e in tenant.entries.values()):
            self._supervisor.apply(sleeping[0], StartAsked())
        if not any(e.kernel.phase in _COMING for e in tenant.entries.values()):
            self._metrics.execution_refused(tenant.id, "no_kernel")
            raise UnavailableError(
                f"tenant {tenant.id} has no kernel that could become READY: {_phases(tenant)}; "
                "restart one that FAILED, or raise the replicas",
                retry_after_s=READY_RETRY_S,
            )
        return False

    async def _wait(self, tenant: Tenant, due: float | None) -> None:
        waiter = self._loop.create_future()
        tenant.waiters[waiter] = None
        try:
            async with asyncio.timeout_at(due):
                await waiter
        except TimeoutError:
            self._metrics.execution_refused(tenant.id, "no_kernel")
            raise UnavailableError(
                f"no kernel of tenant {tenant.id} became READY in time: {_phases(tenant)}",
                retry_after_s=READY_RETRY_S,
            ) from None
        finally:
            tenant.waiters.pop(waiter, None)

    def _expire(self, entry: Entry, channel: Channel, answer: "asyncio.Future[bytes]") -> None:
        """An execution's time is over, and it was not answered."""
        if answer.done():
            return
        self._loop.call_later(LADDER_S, self._give_up, entry, channel, answer)
        self._later(self._call_off(channel, answer))

    async def _call_off(self, channel: Channel, answer: "asyncio.Future[bytes]") -> None:
        """Answer an execution that has not begun, once the kernel said that it will not."""
        with contextlib.suppress(ConnectionError):  # it died: its death is the answer
            if await channel.expire(answer) and not answer.done():
                answer.set_result(_EXPIRED % (_NOT_BEGUN, _NOT_BEGUN, 0.0))

    def _give_up(self, entry: Entry, channel: Channel, answer: "asyncio.Future[bytes]") -> None:
        """Nor when it should have been stopped: such a kernel does not keep to time."""
        if answer.done():
            return
        answer.set_result(_EXPIRED % (_DEAF, _DEAF, 0.0))
        if entry.channel is channel and entry.kernel.phase in TAKES_WORK:
            self._supervisor.apply(entry, Unresponsive(entry.kernel.incarnation, _DEAF.decode()))


def _head(kernel: KernelId, session: str, *, is_reset: bool, clipped_s: float | None) -> bytes:
    """What the kernel does not know, to be put in place of the brace that its reply begins with."""
    head = b'{"kernel_id":"%b","session":%b,' % (kernel.encode(), msgspec.json.encode(session))
    if is_reset:
        head += b'"session_reset":true,'
    if clipped_s is not None:
        head += b'"timeout_clipped":true,"timeout_s":%b,' % msgspec.json.encode(clipped_s)
    return head


def _phases(tenant: Tenant) -> str:
    phases = sorted(entry.kernel.phase.value for entry in tenant.entries.values())
    return f"they are {', '.join(phases)}" if phases else "it has none"


def died(kernel: KernelId, lost: Lost) -> str:
    """What whoever asked for an execution is told when its kernel died."""
    death = lost.death
    how = death.signal or death.detail or death.cause
    began = "while it ran this code, which is not run again" if lost.had_begun else "before it ran this code"
    return f"kernel {kernel} died {began}: {how}"
