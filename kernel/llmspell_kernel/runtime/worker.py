"""The thread that owns Lua.

**Threads.** One, started by `start`, ended by `stop` or with the process; it blocks on an eventfd while there is
nothing to do, inside Lua while a script runs, and in the outbox while the I/O thread is behind. `submit` and
`stop` belong to the I/O thread. Nothing but this thread touches the engine, except through its interrupter.
"""

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from llmspell_kernel.runtime.engine import Engine, Outcome, ScriptError
from llmspell_kernel.runtime.outbox import Broken, Finished, Outbox, Symbols
from llmspell_kernel.runtime.wakeup import Wakeup

QUIET_S: Final = 0.0005
"""How long a burst of short jobs may go on before the I/O thread is woken for what they came to."""


class Execution(msgspec.Struct, frozen=True):
    """One cell to run. `epoch` counts the failures that the I/O thread has dealt with: see `Worker`."""

    number: int
    code: bytes
    chunk: bytes
    epoch: int
    stop_on_error: bool
    may_read: bool
    expressions: dict[str, str]
    ticket: int = 0
    """A supervisor's number for it: it is never given back unrun, and `on_begin` hears of it. 0 = it has none."""
    due: float = 0.0
    """Monotonic time after which it must not begin; 0 = whenever its turn comes."""


class TakeSymbols(msgspec.Struct, frozen=True, gc=False):
    """Look at the script's globals."""


Job = Execution | TakeSymbols

_OUT_OF_MEMORY: Final = Broken("the process is out of memory", is_memory=True)
_LAST_WORDS: Final = b"llmspell kernel: OUT OF MEMORY\n"
"""Made before they are needed."""

_LATE: Final = "not begun: its time was over before its turn came"
_EXPIRED: Final = Outcome("timeout", None, ScriptError("ExecutionTimeout", _LATE, (f"ExecutionTimeout: {_LATE}",)))


class Worker:
    """Runs jobs in order.

    When an execution fails that was sent with `stop_on_error`, everything that was handed over before the I/O thread
    learned of it must not run. The two threads agree on what "before" means by the epoch: executions stamped with
    the failed one's epoch are given back unrun, and the I/O thread opens a new epoch once it has seen the failure.
    """

    def __init__(self, engine: Engine, outbox: Outbox, on_begin: Callable[[int], None] = lambda _ticket: None) -> None:
        self.engine = engine
        self._on_begin = on_begin
        self._outbox = outbox
        self._jobs: deque[Job | None] = deque()
        self._wakeup = Wakeup()
        self._sleeping = False
        self._failed_epoch = -1
        self._quiet_until = 0.0
        self._begun = 0
        self._expired: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="lua", daemon=True)

    def start(self) -> None:
        """Start the thread: the engine is its own from here on."""
        self._thread.start()

    def submit(self, *jobs: Job | None) -> None:
        """Hand over jobs; None ends the thread after those before it."""
        self._jobs.extend(jobs)
        if self._sleeping:
            self._wakeup.wake()

    def expire(self, ticket: int) -> bool:
        """Do not begin the execution of `ticket` any more. False = too late: it was begun, or is over."""
        self._expired.add(ticket)
        begun = self._begun
        self._expired = {waiting for waiting in self._expired if waiting >= begun}
        return begun < ticket

    def stop(self, timeout_s: float) -> bool:
        """End the thread when its current job ends. False when that took longer."""
        self._jobs.clear()
        self.submit(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Give back what a worker holds that was never started."""
        os.close(self._wakeup.descriptor)

    def _work(self) -> None:
        """The thread's boundary: a fault of ours reaches the I/O thread, which must not wait for ever."""
        try:
            try:
                self._serve()
            except MemoryError:
                # Of the process: what a script may use up is Lua's, and ends only the script. A traceback takes some.
                self._outbox.post(_OUT_OF_MEMORY)
            except Exception:  # noqa: BLE001 - the I/O thread logs it and replaces the process
                self._outbox.post(Broken(traceback.format_exc()))
        except MemoryError:
            # Not even that can be told, and the I/O thread would wait for ever.
            os.write(2, _LAST_WORDS)
            os.abort()

    def _serve(self) -> None:
        jobs = self._jobs
        while True:
            if not jobs:
                self._sleeping = True
                if not jobs:
                    self._wakeup.wait()
                self._sleeping = False
                self._quiet_until = time.monotonic() + QUIET_S
                continue
            job = jobs.popleft()
            if job is None:
                return
            if type(job) is Execution:
                self._execute(job)
            else:
                self._outbox.post(Symbols(self.engine.symbols()))

    def _execute(self, job: Execution) -> None:
        if job.ticket:
            if job.due and time.monotonic() >= job.due:
                self._finish(Finished(job.number, _EXPIRED))
                return
            # Said before it is looked at, as `expire` looks after it has said: one of the two sees the other.
            self._begun = job.ticket
            self._on_begin(job.ticket)
            if job.ticket in self._expired:
                self._finish(Finished(job.number, _EXPIRED))
                return
        elif job.epoch == self._failed_epoch:
            self._finish(Finished(job.number, None))
            return
        self._outbox.begin(may_read=job.may_read)
        outcome = self.engine.execute(job.code, job.chunk, job.number)
        if outcome.status != "ok" and job.stop_on_error:
            self._failed_epoch = job.epoch
        expressions = None
        if job.expressions and outcome.status == "ok":
            expressions = self._evaluate(job)
        if self._outbox.has_read:
            self.engine.forget_input()
        self._finish(Finished(job.number, outcome, expressions))

    def _evaluate(self, job: Execution) -> dict[str, tuple[bool, bytes]]:
        """The values of the user's expressions; those after an interrupted one are not asked for."""
        values: dict[str, tuple[bool, bytes]] = {}
        is_over = False
        for name, text in job.expressions.items():
            if is_over:
                values[name] = (False, b"not evaluated: one before it was interrupted")
                continue
            values[name] = self.engine.evaluate(text.encode("utf-8", "surrogatepass"), job.number)
            is_over = self.engine.was_interrupted
        return values

    def _finish(self, finished: Finished) -> None:
        """Post an end; quietly while more short jobs follow, since the two threads share the interpreter.

        The I/O thread looks for quiet items by itself (`Exchange._peek`), so that one which is followed by a long
        job is not late.
        """
        if self._jobs:
            now = time.monotonic()
            if now < self._quiet_until:
                self._outbox.post_quietly(finished)
                return
            self._quiet_until = now + QUIET_S
        self._outbox.post(finished)
