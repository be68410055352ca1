"""A channel of the fleet's to a real kernel, and deaths to end it with."""

import asyncio
import json
import signal
from typing import Any

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.router.channel import Channel
from support.kernels import READY_S
from support.supervised import PROOF, Supervised

KERNEL = KernelId("00000000-0000-4000-8000-00000000abcd")
KILLED = Death(
    kernel_id=KERNEL,
    tenant=TenantId("default"),
    incarnation=1,
    pid=1,
    at="2031-01-01T00:00:00.000000Z",
    cause="signal",
    signal="SIGKILL",
)


class Caller:
    """One channel, and how often it was called back."""

    def __init__(self, supervised: Supervised, *, output_bytes: int = 0) -> None:
        self._supervised = supervised
        self.answered = 0
        self.idle = 0
        self.offences: list[str] = []
        self._sent: list[asyncio.Future[bytes]] = []
        self._has_ended = False
        self.channel = Channel(
            KERNEL,
            supervised.info,
            progress_path=supervised.progress_path,
            proof=PROOF,
            output_bytes=output_bytes,
            on_answered=self._on_answered,
            on_idle=self._on_idle,
            on_offence=self.offences.append,
        )

    def _on_answered(self) -> None:
        self.answered += 1

    def _on_idle(self) -> None:
        self.idle += 1

    def send(self, code: str, **given: Any) -> "asyncio.Future[bytes]":
        """Have it run code; `run` also waits."""
        pending = self.channel.send(f"e-{len(self._sent) + 1}", code, **{"timeout_s": READY_S, **given})
        self._sent.append(pending)
        return pending

    async def run(self, code: str, **given: Any) -> Any:
        """The answer to a run."""
        return await answer(self.send(code, **given))

    def end(self) -> None:
        """What the fleet does when the process has ended."""
        if not self._has_ended:
            self._has_ended = True
            self.channel.end(KILLED)

    async def close(self) -> None:
        """End it, and wait for what becomes of everything that was sent."""
        self.end()
        await asyncio.gather(*self._sent, return_exceptions=True)

    def kill(self) -> None:
        """Kill the kernel; returns when it is dead."""
        self._supervised.kernel.signal(signal.SIGKILL)
        self._supervised.kernel.wait()


async def answer(pending: "asyncio.Future[bytes]") -> Any:
    """What a future comes to, in time."""
    return json.loads(await asyncio.wait_for(pending, READY_S))
