"""Clients that keep a tenant's kernels busy, and what they were answered."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from support.homes import wait_until
from support.tenants import Tenant

_COUNT = "{name} = ({name} or 0) + 1 local x = 0 for i = 1, {steps} do x = x + i end return {name}"


@dataclass(slots=True)
class Load:
    """What the clients have been answered so far."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Whatever should not have been: problems, scripts that failed, sessions that lost their state untold."""
    resets: int = 0
    kernels: set[str] = field(default_factory=set)

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    def more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.answered + count
        wait_until(lambda: self.answered >= wanted, f"{count} more answers", deadline_s=60)


@contextlib.contextmanager
def loaded(tenant: Tenant, *, clients: int, sessions: int = 0, steps: int = 20_000) -> Iterator[Load]:
    """Clients that send one request after the other, the first `sessions` of them each in a session of its own.

    A session counts its requests in its kernel: its count begins anew exactly when it is told so.
    """
    load, is_over, lock = Load(), threading.Event(), threading.Lock()

    def ask(number: int) -> None:
        members: dict[str, Any] = {"session": f"client-{number}"} if number < sessions else {}
        code = _COUNT.format(name=f"n{number}", steps=steps)  # sessions share their kernel's globals
        expected = 0
        while not is_over.is_set():
            answer = tenant.execute(code, **members)
            with lock:
                load.statuses[answer.status] += 1
                if answer.status != 200 or answer.json["status"] != "ok":
                    load.wrong.append(f"{answer.status} {answer.body!r}")
                    continue
                load.kernels.add(answer.json["kernel_id"])
                if members:
                    is_reset = answer.json.get("session_reset", False)
                    load.resets += is_reset
                    expected = 1 if is_reset else expected + 1
                    if answer.json["result"] != str(expected):
                        load.wrong.append(f"expected {expected}, told reset: {is_reset}, found {answer.body!r}")

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        load.more(3 * clients)
        yield load
        load.more(3 * clients)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(60)
