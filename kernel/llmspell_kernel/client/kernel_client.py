"""A client of one kernel that waits for answers: execute, interrupt, shut down, each with a deadline."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from llmspell_kernel.client.channels import Channels, Deadline, Received
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.errors import LlmspellError, NotRunningError, RefusedError
from llmspell_kernel.pidfile import process_start_time

_CONNECT_TIMEOUT_S = 5.0
_ASK_AGAIN_S = 0.25
_BEAT_S = 1.0
_MISSED_BEATS = 5
_GIVE_UP_S = 5.0
_END_OF_INPUT = "\x04"
"""What Jupyter's own clients send for an input that ended; the protocol has no word for it."""


class DeadlineError(LlmspellError):
    """The kernel is there and did not answer in time."""


class KernelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A statistics reply, which only kernels of ours give; they hold more than these."""

    state: Literal["idle", "busy"] = "idle"
    clients: list[dict[str, Any]] = []
    """Who is connected to the shell channel. Whoever asks for statistics is not among them."""
    uptime_s: float = 0.0
    executions: int = 0


class KernelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel_info reply."""

    status: str = "ok"
    protocol_version: str = ""
    implementation: str = ""
    implementation_version: str = ""
    banner: str = ""
    language_info: dict[str, Any] = {}
    evalue: str = ""


class ExecuteOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """An execute reply, with the result that was published for it."""

    status: str
    """``ok``, ``error`` or ``aborted``."""
    execution_count: int | None = None
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []
    user_expressions: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    """The MIME bundle of the value, None when there is none."""


class KernelClient:
    """Connected to one kernel; close it, or use it as a context manager.

    One thread may use it. `connect` must come first: it returns once the kernel answered and IOPub arrives
    here, so that no output is lost afterwards.
    """

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info
        self.kernel_info = KernelInfo()
        self._channels = Channels(info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the kernel."""
        self._channels.close()

    def connect(self, timeout_s: float = _CONNECT_TIMEOUT_S) -> KernelInfo:
        """Wait until the kernel answers. NotRunningError: it does not; RefusedError: it does not want us."""
        deadline = Deadline(timeout_s)
        requests: set[str] = set()
        answer: KernelInfo | None = None
        hears_iopub = False
        while answer is None or not hears_iopub:
            if deadline.has_passed:
                raise self._silence(timeout_s, answered=answer is not None)
            # Asked anew each time: without a welcome message only the next status shows that IOPub is heard.
            requests.add(self._channels.send("shell", "kernel_info_request", {}))
            for received in self._channels.receive(deadline.left_s(_ASK_AGAIN_S)):
                hears_iopub |= received.channel == "iopub"
                if received.channel == "shell" and received.parent_id in requests:
                    answer = self._take_info(received)
        return answer

    def is_alive(self, timeout_s: float = 1.0) -> bool:
        """Whether the kernel's heartbeat answers; a busy kernel's does too."""
        deadline = Deadline(timeout_s)
        self._channels.send_heartbeat()
        while not deadline.has_passed:
            arrived = self._channels.receive(deadline.left_s(timeout_s))
            if any(received.channel == "hb" for received in arrived):
                return True
        return False

    def execute(
        self,
        code: str,
        *,
        on_stream: Callable[[str, str], None] | None = None,
        on_display: Callable[[str, dict[str, Any]], None] | None = None,
        on_input: Callable[[str, bool], str | None] | None = None,
        silent: bool = False,
        store_history: bool = True,
        timeout_s: float | None = None,
    ) -> ExecuteOutcome:
        """Run `code` and return once its reply and all its output are here.

        `on_stream` gets a stream's name and text; `on_display` a message type (``display_data``,
        ``update_display_data``, ``clear_output``) and its content; `on_input` a prompt and whether it asks
        for a password, and returns a line without its end, or None when no answer shall be sent, or raises
        EOFError. Without `on_input` a script that reads gets an error. After `timeout_s` the kernel is
        interrupted and DeadlineError raised. A signal handler may call `request_interrupt` meanwhile.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history and not silent,
            "user_expressions": {},
            "allow_stdin": on_input is not None,
            "stop_on_error": True,
        }
        request = self._channels.send("shell", "execute_request", content)
        execution = _Execution(request, on_stream, on_display, on_input)
        deadline = Deadline(timeout_s)
        while not execution.is_over:
            if deadline.has_passed:
                self._give_up(execution)
                raise DeadlineError(f"the execution did not end within {timeout_s:g} s and was interrupted")
            self._step(execution, deadline)
        return execution.outcome()

    def request_interrupt(self) -> None:
        """Interrupt what runs, without waiting for an answer."""
        self._channels.send("control", "interrupt_request", {})

    def statistics(self, timeout_s: float = 1.0) -> KernelStatistics:
        """What the kernel has done and holds; needs no `connect`, and does not count as a client."""
        reply = self._ask("control", "statistics_request", {}, timeout_s)
        return msgspec.json.decode(reply.message.content_bytes, type=KernelStatistics)

    def interrupt(self, timeout_s: float = 5.0) -> None:
        """Interrupt what runs; returns once the kernel took note."""
        self._ask("control", "interrupt_request", {}, timeout_s)

    def shutdown(self, *, restart: bool = False, timeout_s: float = 5.0) -> None:
        """Ask the kernel to end; returns once it agreed."""
        self._ask("control", "shutdown_request", {"restart": restart}, timeout_s)

    def _ask(self, channel: str, msg_type: str, content: dict[str, Any], timeout_s: float) -> Received:
        request = self._channels.send(channel, msg_type, content)
        deadline = Deadline(timeout_s)
        while not deadline.has_passed:
            for received in self._channels.receive(deadline.left_s(_BEAT_S)):
                if received.channel == channel and received.parent_id == request:
                    return received
        raise DeadlineError(f"the kernel did not answer {msg_type} within {timeout_s:g} s")

    def _give_up(self, execution: "_Execution") -> None:
        """Interrupt, and wait a little for the end: what is sent before it would be aborted along with it."""
        self.interrupt()
        grace = Deadline(_GIVE_UP_S)
        while not execution.is_over and not grace.has_passed:
            self._step(execution, grace)

    def _step(self, execution: "_Execution", deadline: Deadline) -> None:
        arrived = self._channels.receive(deadline.left_s(_BEAT_S))
        for received in arrived:
            answer = execution.take(received)
            if answer is not None:
                header = received.message.header_bytes
                self._channels.send("stdin", "input_reply", {"value": answer}, parent=header)
        if arrived:
            execution.missed_beats = 0
        elif not deadline.has_passed:
            self._check_alive(execution)

    def _check_alive(self, execution: "_Execution") -> None:
        """Silence may be a long computation, or the end: the heartbeat and the process tell them apart."""
        if self._is_process_gone() or execution.missed_beats >= _MISSED_BEATS:
            raise NotRunningError("the kernel ended while it ran this code")
        execution.missed_beats += 1
        self._channels.send_heartbeat()

    def _is_process_gone(self) -> bool:
        pid, start_time = self.info.pid, self.info.start_time
        return pid is not None and start_time is not None and process_start_time(pid) != start_time

    def _take_info(self, received: Received) -> KernelInfo:
        info = msgspec.json.decode(received.message.content_bytes, type=KernelInfo)
        if info.status != "ok":
            raise RefusedError(f"the kernel refuses this client: {info.evalue or 'it gives no reason'}")
        self.kernel_info = info
        return info

    def _silence(self, timeout_s: float, *, answered: bool) -> NotRunningError:
        where = self.info.endpoint("shell")
        if answered:
            return NotRunningError(
                f"the kernel at {where} answers, but its IOPub channel does not within {timeout_s:g} s"
            )
        return NotRunningError(
            f"no kernel answers at {where} within {timeout_s:g} s: it ended, or its key is another one"
        )


class _Execution:
    """What is known of one execute request."""

    def __init__(
        self,
        request: str,
        on_stream: Callable[[str, str], None] | None,
        on_display: Callable[[str, dict[str, Any]], None] | None,
        on_input: Callable[[str, bool], str | None] | None,
    ) -> None:
        self.missed_beats = 0
        self._request = request
        self._on_stream = on_stream
        self._on_display = on_display
        self._on_input = on_input
        self._reply: dict[str, Any] | None = None
        self._is_idle = False
        self._result: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """The reply may overtake the last output, so both are waited for."""
        return self._reply is not None and self._is_idle

    def outcome(self) -> ExecuteOutcome:
        return msgspec.convert({**(self._reply or {}), "result": self._result}, ExecuteOutcome)

    def take(self, received: Received) -> str | None:
        """Note a message; the answer to an input request is for the caller to send."""
        if received.parent_id != self._request:
            return None
        content = msgspec.json.decode(received.message.content_bytes)
        match received.channel, received.msg_type:
            case "iopub", "status":
                self._is_idle = content["execution_state"] == "idle"
            case "iopub", "stream" if self._on_stream is not None:
                self._on_stream(content["name"], content["text"])
            case "iopub", "execute_result":
                self._result = content["data"]
            case "iopub", "display_data" | "update_display_data" | "clear_output" if self._on_display is not None:
                self._on_display(received.msg_type, content)
            case "shell", "execute_reply":
                self._reply = content
            case "stdin", "input_request" if self._on_input is not None:
                return self._ask_for_input(content)
        return None

    def _ask_for_input(self, content: dict[str, Any]) -> str | None:
        assert self._on_input is not None
        try:
            return self._on_input(content["prompt"], content.get("password", False))
        except EOFError:
            return _END_OF_INPUT
