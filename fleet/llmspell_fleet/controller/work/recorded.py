"""Executions with one recorded outcome: with an Idempotency-Key, or started without waiting for them."""

import asyncio
import contextlib
import secrets
from hashlib import sha256
from typing import Final

import msgspec

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.work.executions import Executions
from llmspell_fleet.controller.work.unfinished import Unfinished
from llmspell_fleet.errors import (
    ConflictError,
    FleetError,
    NotFoundError,
    OutcomeUnknownError,
    StoreError,
    UnavailableError,
)
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.requests import ExecuteRequest
from llmspell_fleet.model.views import Executed, ExecutionView
from llmspell_fleet.problems import problem_of
from llmspell_fleet.store.records import Begun, Execution, Finished, Placed
from llmspell_fleet.store.store import Store

_UNKNOWN: Final = "the fleet ended while this ran, or before; it is not run again"


class Recorded:
    """Begins each such execution once, and records what it came to. Belongs to the event loop."""

    def __init__(self, executions: Executions, store: Store, background: Background) -> None:
        self._executions = executions
        self._store = store
        self._background = background
        self._running: dict[str, asyncio.Task[Executed]] = {}

    def resume(self, unfinished: Unfinished) -> None:
        """Record what becomes of an earlier controller's executions, whoever asks for them."""
        for execution in unfinished.executions:
            task = self._background.run(self._resume(unfinished, execution))
            task.set_name(execution.id)
            self._running[execution.id] = task

    async def _resume(self, unfinished: Unfinished, execution: Execution) -> Executed:
        executed = await unfinished.outcome(execution)
        if executed is None:
            await self._abandon(execution.id)
        else:
            await self._finish(execution.id, executed)
        del self._running[execution.id]
        if executed is None:
            raise UnavailableError("the fleet's controller ended before this began: send it again", retry_after_s=0.0)
        return executed

    async def execute(self, tenant: Tenant, request: ExecuteRequest, key: str) -> Executed:
        """Run it unless it was begun before; either way its one outcome."""
        begun = await self._begin(tenant, request, key)
        if isinstance(begun, asyncio.Task):
            # Whoever asked may leave; the execution goes on, and its outcome is recorded.
            return await asyncio.shield(begun)
        running = self._running.get(begun.id)
        if running is not None:
            return msgspec.structs.replace(await asyncio.shield(running), is_replayed=True)
        if begun.outcome is None:
            # It may have ended between the look-up and now.
            begun = await self._store.execution(tenant.id, begun.id) or begun
        if begun.outcome is None or begun.http_status is None:
            raise ConflictError(f"the execution of this Idempotency-Key, {begun.id}, has no outcome yet; ask later")
        return Executed(begun.http_status, begun.outcome, is_replayed=True)

    async def start(self, tenant: Tenant, request: ExecuteRequest, key: str | None) -> ExecutionView:
        """Begin it unless it was begun before; either way how it stands."""
        begun = await self._begin(tenant, request, key, is_waited_for=False)
        if isinstance(begun, asyncio.Task):
            found = await self._store.execution(tenant.id, begun.get_name())
            return ExecutionView(
                id=begun.get_name(), status="pending", created_at=found.created_at if found is not None else date_now()
            )
        return _view(begun)

    async def _begin(
        self, tenant: Tenant, request: ExecuteRequest, key: str | None, *, is_waited_for: bool = True
    ) -> "asyncio.Task[Executed] | Execution":
        execution = Execution(
            id=secrets.token_hex(12),
            tenant=tenant.id,
            key=key,
            sha256=sha256(msgspec.json.encode((request.code, request.session, request.timeout_s))).hexdigest(),
            created_at=date_now(),
            is_waited_for=is_waited_for,
        )
        try:
            answer = await self._store.begin_execution(execution)
            if not isinstance(answer, Begun):
                return answer
            self._executions.reserve(tenant)
        except BaseException:
            # It may be recorded all the same, and was not begun.
            await self._abandon(execution.id)
            raise
        task = self._background.run(self._run(tenant, request, execution.id, is_waited_for=is_waited_for))
        task.set_name(execution.id)
        self._running[execution.id] = task
        return task

    async def _run(self, tenant: Tenant, request: ExecuteRequest, execution: str, *, is_waited_for: bool) -> Executed:
        executed: Executed | None = _failed(OutcomeUnknownError(_UNKNOWN))
        try:
            body = await self._executions.run(tenant, request, execution=execution, record=self._place)
            executed = Executed(200, body)
        except FleetError as fault:
            if is_waited_for and isinstance(fault, UnavailableError | StoreError):
                executed = None  # it never began: who waits may ask again with the same key
                raise
            executed = _failed(fault)
        finally:
            self._executions.release(tenant)
            if executed is None:
                await self._abandon(execution)
            else:
                await self._finish(execution, executed)
            del self._running[execution]
        return executed

    async def _place(self, placed: Placed) -> None:
        self._store.place_execution(placed)
        await self._store.flush()

    async def _abandon(self, execution: str) -> None:
        self._store.abandon_execution(execution)
        await self._recorded()

    async def _finish(self, execution: str, executed: Executed) -> None:
        self._store.finish_execution(_finished(execution, executed))
        await self._recorded()

    async def _recorded(self) -> None:
        """On disk before anybody is told: a controller that is killed then answers the same again."""
        with contextlib.suppress(StoreError):
            await self._store.flush()

    async def show(self, tenant: TenantId, execution: str) -> ExecutionView:
        """One of a tenant's."""
        found = await self._store.execution(tenant, execution)
        if found is None:
            raise NotFoundError(f"there is no execution {execution[:64]!r}, or it is longer ago than 24 hours")
        return _view(found)


def _finished(execution: str, executed: Executed) -> Finished:
    return Finished(
        id=execution,
        status="done" if executed.status < 400 else "failed",
        http_status=executed.status,
        outcome=executed.body,
        finished_at=date_now(),
    )


def _failed(fault: FleetError) -> Executed:
    return Executed(fault.status, msgspec.json.encode(problem_of(fault)))


def _view(execution: Execution) -> ExecutionView:
    return ExecutionView(
        id=execution.id,
        status=execution.status,
        created_at=execution.created_at,
        finished_at=execution.finished_at,
        http_status=execution.http_status,
        outcome=msgspec.Raw(execution.outcome) if execution.outcome is not None else None,
    )
