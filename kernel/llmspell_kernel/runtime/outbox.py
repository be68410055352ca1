"""The one way from the Lua thread to the I/O thread: output, display data, requests for input, outcomes, in order.

**Threads.** The Lua thread appends and, above a bound, waits. The I/O thread takes, and answers requests for input.
The order of the items is all that ties an item to its execution: what stands before the n-th `Finished` belongs to
the n-th execution that was handed over. Plain stdout text is appended as bare bytes, since that is the hot path.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from llmspell_kernel.runtime.engine import Outcome

FLUSH_BYTES: Final = 64 * 1024
"""Text waiting beyond this wakes the I/O thread before its 10 ms are over."""

PIECE_COSTS: Final = 32
MESSAGE_COSTS: Final = 4096
"""What a piece of text and a message weigh on top of their bytes."""

PENDING_BYTES: Final = 1024 * 1024
"""Text waiting beyond this makes `print` wait: the I/O thread sets the pace."""


class StderrText(msgspec.Struct, frozen=True, gc=False):
    """Text for stderr."""

    data: bytes


class Publication(msgspec.Struct, frozen=True, gc=False):
    """A display_data, update_display_data or clear_output; `content` is JSON: a MIME bundle, or the whole content."""

    kind: str
    content: bytes
    display_id: bytes | None


class Flush(msgspec.Struct, frozen=True, gc=False):
    """Show what was written so far."""


class InputRequest(msgspec.Struct, frozen=True, gc=False):
    """The script waits for a line."""


class Finished(msgspec.Struct, frozen=True):
    """An execution has ended. `outcome` is None when it was not begun, because one before it failed."""

    number: int
    outcome: Outcome | None
    expressions: dict[str, tuple[bool, bytes]] | None = None


class Symbols(msgspec.Struct, frozen=True):
    """The script's globals, as rows."""

    rows: list[bytes]


class Broken(msgspec.Struct, frozen=True, gc=False):
    """The Lua thread has ended by a fault of ours; `text` is its traceback."""

    text: str
    is_memory: bool = False
    """The process had no more memory to give."""


Item = bytes | StderrText | Publication | Flush | InputRequest | Finished | Symbols | Broken


class _Meter:
    """How much output went by, by what it costs to publish: text by its size, and what begins a message by far more.

    The writer's and the reader's see the same items in the same order, so that their difference is what waits.
    """

    __slots__ = ("_fd", "total")

    def __init__(self) -> None:
        self.total = 0
        self._fd = 0

    def text(self, fd: int, length: int) -> int:
        """Count text; a change of stream begins a message."""
        if fd != self._fd:
            self._fd = fd
            length += MESSAGE_COSTS
        self.total += length + PIECE_COSTS
        return self.total

    def message(self, length: int) -> int:
        """Count a message of its own."""
        self.total += length + MESSAGE_COSTS
        return self.total


class Outbox:
    """A queue that wakes its reader once, holds its writer back, and carries answers to `io.read` the other way."""

    def __init__(self, wake: Callable[[], None] = lambda: None, *, output_bytes: int = 0) -> None:
        self.wake = wake
        """Wakes the reader; may be set later, before anything is written."""
        self.output_limit = output_bytes
        """What one execution may write; 0 = without end."""
        self._items: deque[Item] = deque()
        self._written = 0
        self._put = _Meter()
        self._taken = _Meter()
        self._ends_put = self._ends_taken = 0
        self._execution_start = 0
        self._awake = False
        self._urgent = False
        self._moved = threading.Event()
        self._answer: tuple[bytes, bytes] | None = None
        self.may_read = False
        """Whether the running execution's front end answers requests for input."""
        self.has_read = False
        """Whether the running execution has asked for input."""
        self.interrupted: Callable[[], bool] = lambda: False
        self.stop_for_output: Callable[[], None] = lambda: None

    # --- the Lua thread ----------------------------------------------------------------------------------------

    def begin(self, *, may_read: bool) -> None:
        """A new execution writes from now on."""
        self.may_read = may_read
        self.has_read = False
        self._execution_start = self._written

    def write(self, fd: int, data: bytes) -> None:
        """Take output (engine.Host)."""
        self._written += len(data)
        if self.output_limit and self._written - self._execution_start > self.output_limit:
            self.stop_for_output()
            return
        self._items.append(data if fd == 1 else StderrText(data))
        if not self._awake:
            self._awake = True
            self.wake()
        pending = self._put.text(fd, len(data)) - self._taken.total
        if pending > FLUSH_BYTES:
            if not self._urgent:
                self._urgent = True
                self.wake()
            if pending > PENDING_BYTES:
                self._wait(self._is_half_empty)

    def _is_half_empty(self) -> bool:
        return self._put.total - self._taken.total <= PENDING_BYTES // 2

    def flush(self) -> None:
        """Show what was written so far (engine.Host)."""
        self.post(Flush())

    def publish(self, kind: bytes, content: bytes, display_id: bytes | None) -> None:
        """Take display data (engine.Host). A script that publishes without end is paced like one that prints."""
        self._written += len(content)
        if self.output_limit and self._written - self._execution_start > self.output_limit:
            self.stop_for_output()
            return
        self.post(Publication(kind.decode("ascii"), content, display_id))
        if self._put.message(len(content)) - self._taken.total > PENDING_BYTES:
            self._wait(self._is_half_empty)

    def read_line(self) -> tuple[bytes, bytes]:
        """Ask the front end for a line and wait for it (engine.Host)."""
        if not self.may_read:
            return b"error", b"io.read: the front end that sent this code does not answer requests for input"
        self.has_read = True
        self._take_answer()
        self.post(InputRequest())
        self._wait(lambda: self._answer is not None)
        return self._take_answer() or (b"error", b"io.read: interrupted")

    def _take_answer(self) -> tuple[bytes, bytes] | None:
        answer, self._answer = self._answer, None
        return answer

    def post_quietly(self, item: Item) -> None:
        """Append something whose reader need not be woken yet: another `post` follows soon (worker.py)."""
        if type(item) is Finished:
            self._ends_put += 1
        self._items.append(item)

    def post(self, item: Item) -> None:
        """Append something that the reader should see at once."""
        self.post_quietly(item)
        if not self._urgent:
            self._awake = self._urgent = True
            self.wake()

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done() and not self.interrupted():
            self._moved.clear()
            if not done() and not self.interrupted():
                self._moved.wait()

    # --- the I/O thread ----------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:
        """Whether something waits that should not wait for the 10 ms of coalescing."""
        return self._urgent

    @property
    def awake(self) -> bool:
        """Whether anything waits at all."""
        return self._awake

    @property
    def has_end(self) -> bool:
        """Whether the end of an execution waits: what is before it is all that there will be of that one."""
        return self._ends_put != self._ends_taken

    @property
    def has_items(self) -> bool:
        """Whether there is anything to take, quiet items included."""
        return bool(self._items)

    def take(self, most: int) -> list[Item]:
        """Take up to `most` items. The writer is woken when it waits."""
        if len(self._items) <= most:
            # Cleared before the queue is emptied: an item that comes in between wakes the reader again.
            self._awake = self._urgent = False
        popleft = self._items.popleft
        taken = [popleft() for _ in range(min(most, len(self._items)))]
        meter = self._taken
        for item in taken:
            if type(item) is bytes:
                meter.text(1, len(item))
            elif type(item) is StderrText:
                meter.text(2, len(item.data))
            elif type(item) is Publication:
                meter.message(len(item.content))
            elif type(item) is Finished:
                self._ends_taken += 1
        self._moved.set()
        return taken

    def answer(self, line: bytes | None) -> None:
        """The front end's line; None when its input has ended."""
        self._answer = (b"end", b"") if line is None else (b"line", line)
        self._moved.set()

    def nudge(self) -> None:
        """Let a waiting writer look again: an interrupt is pending."""
        self._moved.set()
