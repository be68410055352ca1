r"""Stopping a running script from another thread, at no cost until it is asked for.

Lua has one way to stop code that does not cooperate: a hook, which any thread may set (`lua_sethook` is made to be
called asynchronously). While none is set scripts run at full speed; a hook that stays costs 2.2 times. So it is set,
through the C API that lupa's extension module exports, at the moment of the interrupt.

The hook function is `luaL_error` itself. Lua calls a hook as `f(L, ar)`, and `ar` begins with the event number, 3 for
a count hook; read as `luaL_error`'s format that is the string "\3". So every instruction from then on raises an error
that ends in "\3", `pcall` cannot swallow it for longer than one instruction, and no Python frame is unwound.

Hooks are per coroutine. The prelude keeps the running one in a table that lies on the stack of `mailbox`, a coroutine
which is never run; reading it from there takes only calls that neither allocate nor run Lua code. The same table
tells the prelude that an interrupt is pending: a coroutine that ends as the hook reaches it would else hide that.

**Who may call what.** `begin` and `end` belong to the Lua thread, `arm` and `press` to any. One lock covers them, with
the number of the execution that is meant: an interrupt that comes late finds another number and does nothing.
"""

import ctypes
import threading
from typing import TYPE_CHECKING, Final

import lupa.lua54

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT_EVENT: Final = b"\x03"
_MASK_COUNT: Final = 1 << 3
_SLOTS: Final = 2
"""Where on the mailbox's stack the table lies. In it: 1 the running coroutine, 2 the one that resumed it or runs after
all, since it failed to, 3 whether an interrupt is pending."""


class Hook:
    """`lua_sethook` on the main state and on the coroutine that runs now."""

    def __init__(self, addresses: bytes) -> None:
        """`addresses`: the main state and the mailbox as `%p %p`."""
        # PyDLL keeps the interpreter lock during the calls, so that nothing else of ours runs between them.
        library = ctypes.PyDLL(lupa.lua54.__file__)
        main, mailbox = (int(address, 16) for address in addresses.split())
        state, integer = ctypes.c_void_p, ctypes.c_int
        self._main, self._mailbox = state(main), state(mailbox)
        self._raise = ctypes.cast(library.luaL_error, state)
        self._sethook = library.lua_sethook
        self._sethook.argtypes, self._sethook.restype = [state, state, integer, integer], None
        self._getupvalue = library.lua_getupvalue
        self._getupvalue.argtypes, self._getupvalue.restype = [state, integer, integer], ctypes.c_char_p
        self._rawgeti = library.lua_rawgeti
        self._rawgeti.argtypes, self._rawgeti.restype = [state, integer, ctypes.c_longlong], integer
        self._rawseti = library.lua_rawseti
        self._rawseti.argtypes, self._rawseti.restype = [state, integer, ctypes.c_longlong], None
        self._pushboolean = library.lua_pushboolean
        self._pushboolean.argtypes, self._pushboolean.restype = [state, integer], None
        self._tothread = library.lua_tothread
        self._tothread.argtypes, self._tothread.restype = [state, integer], state
        self._settop = library.lua_settop
        self._settop.argtypes, self._settop.restype = [state, integer], None
        # Once and for all, while no script runs: the collector clears what lies above a stack's top, and would take a
        # table that was pushed at the wrong moment. What is pushed on top of it below may go; then nothing happens.
        self._getupvalue(self._mailbox, 1, 1)

    def press(self) -> None:
        """Make the main state and the running coroutine raise at their next instruction."""
        self._sethook(self._main, self._raise, _MASK_COUNT, 1)
        mailbox = self._mailbox
        self._pushboolean(mailbox, 1)
        self._rawseti(mailbox, _SLOTS, 3)
        for slot in (1, 2):
            self._rawgeti(mailbox, _SLOTS, slot)
            running = self._tothread(mailbox, -1)
            if running and running != self._main.value:
                self._sethook(running, self._raise, _MASK_COUNT, 1)
        # Only now: on the mailbox's stack the coroutines cannot be collected.
        self._settop(mailbox, _SLOTS)

    def release(self) -> None:
        """Take the hook off the main state. Coroutines are the prelude's to clean."""
        self._sethook(self._main, None, 0, 0)


class Interrupter:
    """Interrupts that name the execution they are for."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        self._lock = threading.Lock()
        self._running: int | None = None
        self._reason: str | None = None
        self._last = 0
        self._early: tuple[int, str] | None = None
        self.on_arm: Callable[[], None] = _nothing
        """Called when an interrupt is armed: wakes a script that waits for input or for its output to be taken."""

    def begin(self, execution: int) -> None:
        """From now on interrupts for `execution` are heard."""
        with self._lock:
            self._running, self._reason = execution, None
            if self._early is not None and self._early[0] == execution:
                self._reason = self._early[1]
                self._hook.press()

    def end(self) -> str | None:
        """No interrupt is heard from now on. Returns why the execution was interrupted, None when it was not."""
        with self._lock:
            if self._running is not None:
                self._last = self._running
            self._running = None
            if self._reason is not None:
                self._hook.release()
            return self._reason

    def arm(self, execution: int | None, reason: str) -> bool:
        """Interrupt `execution` (None: whichever runs).

        One that was handed over and has not begun is interrupted when it begins. False when it has ended.
        """
        with self._lock:
            if self._running is None or execution not in {None, self._running}:
                if execution is None or execution <= self._last:
                    return False
                self._early = (execution, reason)
                return True
            if self._reason is None:
                self._reason = reason
            self._hook.press()
        self.on_arm()
        return True

    def press_again(self) -> bool:
        """Follow a script that moved to another coroutine meanwhile. False when no interrupt is pending."""
        with self._lock:
            if self._reason is None or self._running is None:
                return False
            self._hook.press()
            return True

    @property
    def pending(self) -> bool:
        """Whether the running execution is being interrupted."""
        return self._reason is not None and self._running is not None


def _nothing() -> None:
    return None
