"""How a kernel's service ends: told to, or unused for too long.

A kernel by itself sees to that with `idle_timeout_s`. One of a fleet's is told by `cull_request`, on the shell channel:
the fleet knows of leases and of what the tenant wants, the kernel of the last moment. Content: `in_s`, `reason` (for
people) and `is_forced`. Whoever subscribes hears `kernel_culling`, with `in_s` and `reason`, which other protocols'
clients pass over; so long afterwards the kernel ends, unless it was used meanwhile and the end is not forced.
"""

import time
from typing import Annotated, Final

import msgspec

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.contents import encode
from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.interrupts import Interrupts
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.runtime.engine import ScriptError

END_WITHIN_S: Final = 2.0
"""How long a script may take to stop before the kernel ends without it."""


class CullRequest(msgspec.Struct, gc=False):
    """The content of `cull_request`."""

    in_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)]
    reason: str = ""
    is_forced: bool = False


class Lifetime:
    """Ends the loop. Belongs to the I/O thread."""

    def __init__(
        self,
        loop: Loop,
        executions: Executions,
        interrupts: Interrupts,
        iopub: IOPub,
        diagnostics: Diagnostics,
        *,
        idle_timeout_s: float,
    ) -> None:
        self._loop = loop
        self._executions = executions
        self._interrupts = interrupts
        self._iopub = iopub
        self._diagnostics = diagnostics
        self._idle_timeout_s = 0.0
        self._ending: str | None = None
        self._last_use = time.monotonic()
        self._cull: tuple[CullRequest, float] | None = None
        """What was announced, and when."""
        loop.timer("idle", self._idle)
        loop.timer("end", lambda _now: self._end())
        loop.timer("cull", self._culled)
        self.end_after_idle(idle_timeout_s)

    def used(self, now: float) -> None:
        """An execution began or ended, input or a comm message came. Looking at a kernel does not keep it."""
        self._last_use = now

    def idle_s(self, now: float) -> float:
        """How long it was not used; while it runs something, since that began."""
        return now - self._last_use

    def cull(self, request: CullRequest) -> None:
        """Tell everybody, and end when the time is over, unless it is used until then."""
        now = time.monotonic()
        self._cull = request, now
        self._iopub.publish("kernel_culling", encode({"in_s": request.in_s, "reason": request.reason}))
        self._loop.set("cull", now + request.in_s)

    def _culled(self, _now: float) -> None:
        assert self._cull is not None
        request, asked_at = self._cull
        if request.is_forced or (self._executions.running is None and self._last_use < asked_at):
            self._diagnostics.info(f"culled: {request.reason}")
            self.end("idle")

    def running_changed(self) -> None:
        """Another execution runs, or none: an end that waited for that goes on."""
        if self._ending is not None and self._executions.running is None:
            self._end()

    def end(self, why: str) -> None:
        """Interrupt what runs, and end the loop when it has stopped or after `END_WITHIN_S`."""
        if self._ending is None:
            self._ending = why
            is_running = self._interrupts.interrupt("shutdown")
            self._loop.set("end", time.monotonic() + (END_WITHIN_S if is_running else 0.0))

    def end_after_idle(self, timeout_s: float) -> None:
        """End by itself after so long without use; 0 = never."""
        self._idle_timeout_s = timeout_s
        self._loop.clear("idle")
        if timeout_s:
            self._loop.set("idle", time.monotonic() + timeout_s)

    def _end(self) -> None:
        assert self._ending is not None
        self.answer_all()
        self._iopub.publish("shutdown_reply", encode({"status": "ok", "restart": False}))
        self._loop.end(self._ending)

    def answer_all(self) -> None:
        """Tell whoever waits for an execution that it will not be."""
        text = "interrupted: the kernel is shutting down"
        self._executions.fail_running(ScriptError("Interrupted", text, (f"Interrupted: {text}",)))

    def _idle(self, now: float) -> None:
        left = self._last_use + self._idle_timeout_s - now
        if self._executions.running is not None or left > 0:
            self._loop.set("idle", now + max(left, self._idle_timeout_s / 10))
            return
        self._diagnostics.info(f"unused for {self._idle_timeout_s:g} s: ending (idle_timeout)")
        self.end("idle")
