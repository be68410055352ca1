"""The requests that need no execution: who we are, completion, inspection, history, comms.

They are answered on the I/O thread, also while a script runs. Completion and inspection read a snapshot of the
globals: a fresh one when Lua is idle, else the last, with the names that the cells since then define.
"""

import platform
from collections.abc import Callable, Mapping
from typing import Any, Final

import llmspell_kernel
from llmspell_kernel.jupyter.contents import (
    CommInfoRequest,
    CommMessage,
    CompleteRequest,
    HistoryRequest,
    InspectRequest,
    IsCompleteRequest,
    encode,
)
from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.history import History
from llmspell_kernel.jupyter.pager import Question, question
from llmspell_kernel.wire.jupyter import PROTOCOL_VERSION, Message

Publish = Callable[[str, bytes, bytes], None]
Answer = Callable[[Message, Any], bytes]

LONGEST_ANALYSED: Final = 1_000_000
"""A cell longer than this is not searched for the names that it defines: the I/O thread has others to serve."""


def kernel_info() -> bytes:
    """The content of kernel_info_reply: the same for every kernel of this version."""
    return encode(
        {
            "status": "ok",
            "protocol_version": PROTOCOL_VERSION,
            "implementation": "llmspell",
            "implementation_version": llmspell_kernel.__version__,
            "language_info": {
                "name": "lua",
                "version": "5.4",
                "mimetype": "text/x-lua",
                "file_extension": ".lua",
                "pygments_lexer": "lua",
                "codemirror_mode": "lua",
                "nbconvert_exporter": "script",
            },
            "banner": f"llmspell {llmspell_kernel.__version__}: Lua 5.4 on Python {platform.python_version()}",
            "debugger": False,
            "help_links": [{"text": "Lua 5.4 reference manual", "url": "https://www.lua.org/manual/5.4/"}],
            "supported_features": [],
        }
    )


def cell_name(count: int) -> str:
    """What Lua calls the chunk of the cell with this execution count."""
    return f"=In[{count}]"


class Requests:
    """The handlers, by message type. All of it belongs to the I/O thread."""

    def __init__(self, executions: Executions, history: History, publish: Publish) -> None:
        self._executions = executions
        self._history = history
        self._publish = publish
        self._kernel_info: bytes | None = None
        self._checker: Callable[[bytes], bytes | None] | None = None
        self._table_of: list[bytes] | None = None
        self._table: Any = None
        self.handlers: Mapping[str, tuple[type, Answer]] = {
            "kernel_info_request": (dict, self._answer_kernel_info),
            "is_complete_request": (IsCompleteRequest, self._answer_is_complete),
            "complete_request": (CompleteRequest, self._answer_complete),
            "inspect_request": (InspectRequest, self._answer_inspect),
            "history_request": (HistoryRequest, self._answer_history),
            "comm_info_request": (CommInfoRequest, self._answer_comm_info),
        }
        self.needs_symbols: Final = frozenset(("complete_request", "inspect_request"))

    def _answer_kernel_info(self, _message: Message, _request: dict[str, Any]) -> bytes:
        if self._kernel_info is None:
            self._kernel_info = kernel_info()
        return self._kernel_info

    def _answer_history(self, _message: Message, request: HistoryRequest) -> bytes:
        return encode({"status": "ok", "history": self._history.select(request)})

    def _answer_is_complete(self, _message: Message, request: IsCompleteRequest) -> bytes:
        if self._checker is None:
            # A Lua state of its own: the script's may be busy, and only its own thread may touch it.
            from llmspell_kernel.runtime.checker import make_checker

            self._checker = make_checker()
        # A line that ends: text in quotes that is still open then can never be closed.
        fault = self._checker(request.code.encode("utf-8", "surrogatepass") + b"\n")
        if fault is None or question(request.code):
            return b'{"status":"complete"}'
        if fault.endswith(b"<eof>"):
            from llmspell_kernel.analysis import indentation

            return encode({"status": "incomplete", "indent": indentation(request.code[-LONGEST_ANALYSED:])})
        return b'{"status":"invalid"}'

    def _answer_complete(self, _message: Message, request: CompleteRequest) -> bytes:
        from llmspell_kernel.analysis import complete

        found = complete(request.code, request.cursor_pos, self._symbols())
        return encode(
            {
                "status": "ok",
                "matches": found.matches,
                "cursor_start": found.cursor_start,
                "cursor_end": found.cursor_end,
                "metadata": {"_jupyter_types_experimental": found.types},
            }
        )

    def _answer_inspect(self, _message: Message, request: InspectRequest) -> bytes:
        data = self._inspect(request.code, request.cursor_pos, request.detail_level)
        return encode({"status": "ok", "found": bool(data), "data": data, "metadata": {}})

    def page(self, question: Question) -> bytes:
        """The payload that shows a front end what a cell asked for."""
        data = self._inspect(question.name, len(question.name), question.detail_level)
        return encode({"source": "page", "data": data or {"text/plain": f"{question.name}: no such name"}, "start": 0})

    def _inspect(self, code: str, cursor: int, detail_level: int) -> dict[str, str]:
        """What is known of the name at the cursor, by MIME type; empty when nothing is."""
        from llmspell_kernel.analysis import inspect_at

        sources = {cell_name(count): source for count, source in self._history.sources()}
        sources.update((cell_name(count), source) for count, source in self._executions.cells_since_symbols())
        found = inspect_at(code, cursor, self._symbols(), sources, detail_level=detail_level)
        return {"text/plain": found.text_plain, "text/markdown": found.text_markdown} if found.found else {}

    def _symbols(self) -> Any:
        from llmspell_kernel.analysis import SymbolTable, assigned_globals, standard_symbols

        executions = self._executions
        if self._table_of is not executions.symbols:
            rows = self._table_of = executions.symbols
            self._table = SymbolTable.from_rows(rows) if rows else standard_symbols()
        table = self._table
        for count, source in executions.cells_since_symbols():
            if len(source) <= LONGEST_ANALYSED:
                table = table.merged(assigned_globals(source, cell_name(count)))
        return table

    # --- comms -------------------------------------------------------------------------------------------------

    def _answer_comm_info(self, _message: Message, _request: CommInfoRequest) -> bytes:
        # Scripts cannot open comms, and no target is offered to front ends: there are none to list.
        return b'{"status":"ok","comms":{}}'

    def comm(self, message: Message, request: CommMessage) -> None:
        """A comm_open of a target that nobody offers is answered by comm_close; the other two are for no one."""
        if message.header.msg_type == "comm_open":
            self._publish("comm_close", encode({"comm_id": request.comm_id, "data": {}}), message.header_bytes)
