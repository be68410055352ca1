"""Executions whose output is sent as it comes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.work.executions import Executions
from llmspell_fleet.errors import FleetError
from llmspell_fleet.model.requests import ExecuteRequest
from llmspell_fleet.problems import problem_of

MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Output that waits for one slow reader; beyond, text is lost, and the reader is told."""


class _Pieces:
    """What waits to be sent."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._lost = 0
        self._changed = asyncio.Event()
        self._has_ended = False

    def put(self, event: str, data: bytes) -> None:
        if self._bytes > MOST_WAITING_BYTES:
            self._lost += len(data)
            return
        self._pieces.append((event, data))
        self._bytes += len(data)
        self._changed.set()

    def end(self) -> None:
        self._has_ended = True
        self._changed.set()

    async def all(self) -> AsyncIterator[tuple[str, bytes]]:
        while True:
            while self._pieces:
                event, data = self._pieces.popleft()
                self._bytes -= len(data)
                yield event, data
            if self._lost:
                text = f"[llmspell: {self._lost} bytes of output were not delivered: they were not read in time]\n"
                self._lost = 0
                yield "output", msgspec.json.encode({"name": "stderr", "text": text})
                continue
            if self._has_ended:
                return
            self._changed.clear()
            await self._changed.wait()


async def stream(
    executions: Executions, tenant: Tenant, request: ExecuteRequest, background: Background
) -> AsyncIterator[tuple[str, bytes]]:
    """The pieces of one execution, which goes on when its reader leaves. Errors before it begins are raised."""
    executions.reserve(tenant)
    pieces = _Pieces()

    async def run() -> bytes | FleetError:
        try:
            return await executions.run(tenant, request, on_output=pieces.put)
        except FleetError as fault:
            return fault
        finally:
            executions.release(tenant)
            pieces.end()

    running = background.run(run())
    has_sent = False
    async for piece in pieces.all():
        has_sent = True
        yield piece
    outcome = await running
    if isinstance(outcome, bytes):
        yield "result", outcome
    elif has_sent:
        yield "problem", msgspec.json.encode(problem_of(outcome))
    else:
        raise outcome
