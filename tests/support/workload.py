"""Many clients at work on a fleet that is broken meanwhile, and the books that they keep.

Each execution has a number of its own and counts itself in its kernel (`counted`); what its kernel publishes as it
begins is counted by a witness who stands outside (`support.witness`).
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.restarted import RestartedFleet
from support.tenants import sse

PATIENCE_S = 60.0
"""How long a request that has to come to an outcome may take, on a fleet that is broken and repaired meanwhile."""

TIMEOUT_S = 15.0
"""What executions are given."""

RETRIED = {409, 429, 503}
"""Answers after which a request with a key is sent again."""

ALLOWED = {200, 429, 502, 503, 504}
"""What a request without a key may be answered."""

_AGAIN_S = 0.02
_FAULTS = (OSError, http.client.HTTPException)

CODE = """ledger = ledger or {{}} ledger[{number}] = (ledger[{number}] or 0) + 1 print('ran {number}.')
local began = os.clock() while os.clock() - began < {busy_s} do end
return '{number}:' .. ledger[{number}]"""
"""It may run once: it answers how often it has, in the Lua state that it is in."""

AUDIT = """local found = {} for number, times in pairs(ledger or {}) do
found[#found + 1] = string.format('%d:%d', number, times) end return table.concat(found, ' ')"""
"""What a kernel's Lua state holds of the ledger."""


@dataclass(frozen=True, slots=True)
class Final:
    """An outcome that is recorded: whoever asks again is told the same."""

    number: int
    tenant: str
    key: str
    location: str
    """Where it is fetched; "" for one that is asked for by its key."""
    code: str
    status: int
    body: bytes


@dataclass(slots=True)
class Books:
    """What came of everything that was asked. `wrongs` are sentences; there may be none."""

    asked: Counter[str] = field(default_factory=Counter)
    """Requests by kind."""
    answered: Counter[str] = field(default_factory=Counter)
    """Outcomes by kind and status; "cut" where the connection ended without an answer."""
    finals: list[Final] = field(default_factory=list)
    succeeded: set[int] = field(default_factory=set)
    """Numbers that were answered "ok"."""
    not_begun: set[int] = field(default_factory=set)
    """Numbers whose recorded outcome is that they never began."""
    wrongs: list[str] = field(default_factory=list)
    slowest_s: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _number: int = 0

    def number(self) -> int:
        """A number that no other execution has."""
        with self._lock:
            self._number += 1
            return self._number

    @property
    def numbers(self) -> int:
        """How many executions were asked for."""
        return self._number

    def answer(self, kind: str, outcome: object, took_s: float) -> None:
        with self._lock:
            self.answered[f"{kind} {outcome}"] += 1
            self.slowest_s[kind] = max(self.slowest_s.get(kind, 0.0), took_s)

    def keep(self, final: Final) -> None:
        with self._lock:
            self.finals.append(final)

    def wrong(self, sentence: str) -> None:
        with self._lock:
            self.wrongs.append(sentence)

    def check_view(self, number: int, view: dict[str, Any]) -> None:
        """What an execution was answered: its own result, of its one run."""
        if view["status"] == "ok":
            self.succeeded.add(number)
            if view["result"] != f"{number}:1" or f"ran {number}." not in view["stdout"]:
                self.wrong(f"execution {number} was answered {view['result']!r} with stdout {view['stdout'][:200]!r}")
        elif view["status"] not in ("interrupted", "timeout"):
            self.wrong(f"execution {number} ended as {view}")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One client: one connection, made anew when it breaks, to wherever the fleet serves now."""

    def __init__(self, fleet: RestartedFleet) -> None:
        self._fleet = fleet
        self._connection: http.client.HTTPConnection | None = None
        self._url = ""

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request, sent once. OSError or HTTPException: there was no answer."""
        connection = self._connected()
        every = {"Authorization": f"Bearer {self._fleet.token}", "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), every)
            with connection.getresponse() as response:
                return Reply(response.status, dict(response.headers), response.read())
        except BaseException:
            self.close()
            raise

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None or self._url != self._fleet.url:
            self.close()
            self._url = self._fleet.url
            parts = urlsplit(self._url)
            assert parts.hostname is not None
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Worker(threading.Thread):
    """A client that asks for one thing after the other until told to stop, and then sees its last to an outcome."""

    def __init__(self, fleet: RestartedFleet, books: Books, tenants: list[str], seed: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._client = Client(fleet)
        self._books = books
        self._tenants = tenants
        self._random = random.Random(seed)
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._sessions = [f"s{seed % 1000}-{number}" for number in range(4)]

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        kinds = (self._plain, self._session, self._stream, self._keyed, self._keyed, self._later, self._later_keyed)
        while not self._stopping.wait(self._pause_s * 2 * self._random.random()):
            kind = self._random.choice(kinds)
            name = kind.__name__.strip("_")
            self._books.asked[name] += 1
            at = time.monotonic()
            try:
                kind()
            except _FAULTS:
                # Neither a key nor a number by which to ask again: one of these may be lost, not doubled.
                self._books.answer(name, "cut", time.monotonic() - at)
                self._stopping.wait(_AGAIN_S)
            except Exception as fault:  # noqa: BLE001 - handed to the test, which owns it
                self._books.wrong(f"{name}: {type(fault).__name__} {fault}")
        self._client.close()

    # --- what is asked

    def _make(self) -> tuple[int, str, dict[str, Any]]:
        number = self._books.number()
        busy_s = self._random.choice((0, 0, 0.002, 0.02, 0.1))
        code = CODE.format(number=number, busy_s=busy_s)
        tenant = self._random.choice(self._tenants)
        return number, f"/v1/tenants/{tenant}/execute", {"code": code, "timeout_s": TIMEOUT_S}

    def _plain(self, **members: Any) -> None:
        number, path, body = self._make()
        at = time.monotonic()
        self._settle("session" if members else "plain", number, self._client.ask("POST", path, {**body, **members}), at)

    def _session(self) -> None:
        self._plain(session=self._random.choice(self._sessions))

    def _stream(self) -> None:
        number, path, body = self._make()
        at = time.monotonic()
        reply = self._client.ask("POST", path, {**body, "stream": True})
        if reply.status != 200:
            self._settle("stream", number, reply, at)
            return
        ends = [(event, data) for event, _, data in sse(reply.body) if event in ("result", "problem")]
        if len(ends) > 1:
            self._books.wrong(f"execution {number} was told {len(ends)} ends: {ends}")
        for event, data in ends:
            self._books.answer("stream", event, time.monotonic() - at)
            if event == "result" and data["status"] == "ok":
                self._books.succeeded.add(number)
                if data["result"] != f"{number}:1":
                    self._books.wrong(f"execution {number} streamed {data['result']!r}")
        if not ends:
            self._books.answer("stream", "no end", time.monotonic() - at)

    def _settle(self, kind: str, number: int, reply: Reply, at: float) -> None:
        if reply.status not in ALLOWED:
            self._books.wrong(f"execution {number} ({kind}) was answered {reply.status} {reply.body[:300]!r}")
        if reply.status == 200:
            self._books.check_view(number, json.loads(reply.body))
        self._books.answer(kind, reply.status, time.monotonic() - at)

    def _keyed(self) -> None:
        number, path, body = self._make()
        key, at = f"key-{number}", time.monotonic()
        while time.monotonic() < at + PATIENCE_S:
            try:
                reply = self._client.ask("POST", path, body, {"Idempotency-Key": key})
            except _FAULTS:
                time.sleep(_AGAIN_S)
                continue
            if reply.status in RETRIED:
                time.sleep(_AGAIN_S)
                continue
            self._record("keyed", Final(number, path, key, "", body["code"], reply.status, reply.body), at)
            return
        self._books.wrong(f"execution {number} with a key came to no outcome within {PATIENCE_S:g} s")

    def _later(self, key: str = "", kind: str = "later") -> None:
        number, path, body = self._make()
        headers = {"Idempotency-Key": f"key-{number}"} if key else {}
        at = time.monotonic()
        location = ""
        while not location and time.monotonic() < at + PATIENCE_S:
            try:
                reply = self._client.ask("POST", path, {**body, "wait": False}, headers)
            except _FAULTS:
                if not key:
                    raise
                time.sleep(_AGAIN_S)
                continue
            if reply.status in (200, 202):
                location = reply.headers["Location"]
            elif reply.status not in RETRIED:
                self._books.wrong(f"execution {number} ({kind}) was answered {reply.status} {reply.body[:300]!r}")
                return
            elif not key:
                self._books.answer(kind, reply.status, time.monotonic() - at)
                return
            else:
                time.sleep(_AGAIN_S)
        while time.monotonic() < at + PATIENCE_S:
            try:
                reply = self._client.ask("GET", location)
            except _FAULTS:
                time.sleep(_AGAIN_S)
                continue
            view = json.loads(reply.body)
            if reply.status == 200 and view["status"] != "pending":
                final = Final(number, path, "", location, body["code"], view["http_status"], reply.body)
                self._record(kind, final, at, view["outcome"])
                return
            if reply.status not in (200, 503):
                self._books.wrong(f"execution {number} was accepted, and {location} says {reply.status}")
                return
            time.sleep(_AGAIN_S)
        self._books.wrong(f"execution {number} was accepted and came to no outcome within {PATIENCE_S:g} s")

    def _later_keyed(self) -> None:
        self._later(key="keyed", kind="later_keyed")

    def _record(self, kind: str, final: Final, at: float, outcome: Any = None) -> None:
        view = json.loads(final.body) if outcome is None else outcome
        status: object = final.status
        if final.status == 200:
            self._books.check_view(final.number, view)
        elif final.status == 502:
            status = "502 unknown" if view.get("title") == "Outcome unknown" else "502 died"
        elif final.status == 503:
            self._books.not_begun.add(final.number)
        else:
            self._books.wrong(f"execution {final.number} ({kind}) has the outcome {final.status} {view}")
        self._books.answer(kind, status, time.monotonic() - at)
        self._books.keep(final)


def recheck(fleet: RestartedFleet, books: Books) -> int:
    """Ask for every recorded outcome again; how many there were. Whatever is not as it was is a wrong."""
    client = Client(fleet)
    finals = list(books.finals)
    for final in finals:
        if final.location:
            reply = client.ask("GET", final.location)
            is_same = reply.status == 200 and reply.body == final.body
        else:
            body = {"code": final.code, "timeout_s": TIMEOUT_S}
            reply = client.ask("POST", final.tenant, body, {"Idempotency-Key": final.key})
            is_same = (reply.status, reply.body) == (final.status, final.body)
        if not is_same:
            books.wrong(
                f"execution {final.number} had the outcome {final.status} {final.body[:300]!r}, and now has "
                f"{reply.status} {reply.body[:300]!r}"
            )
    client.close()
    return len(finals)
