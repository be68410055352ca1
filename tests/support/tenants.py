"""Tenants of a real fleet, and what many clients do to them at one moment."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from llmspell_kernel.pidfile import process_start_time
from support.fleets import Answer, FleetHome
from support.homes import wait_until

T = TypeVar("T")

_NUMBERS = itertools.count(1)

SPIN = "while true do end"
"""A script that runs until it is interrupted, or its process ends."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant of a fleet, asked with the admin's token unless another is named."""

    fleet: FleetHome
    id: str
    token: str
    created: dict[str, Any]

    @property
    def path(self) -> str:
        return f"/v1/tenants/{self.id}"

    def execute(self, code: str, *, headers: dict[str, str] | None = None, **members: object) -> Answer:
        """Run code, whatever comes of it."""
        return self.fleet.ask("POST", f"{self.path}/execute", {"code": code, **members}, headers=headers)

    def run(self, code: str, **members: object) -> dict[str, Any]:
        """Run code that has to be answered with 200."""
        answer = self.execute(code, **members)
        assert answer.status == 200, answer.body
        view: dict[str, Any] = answer.json
        return view

    def value(self, code: str, **members: object) -> str | None:
        """What code that has to succeed returns."""
        view = self.run(code, **members)
        assert view["status"] == "ok", view
        result: str | None = view["result"]
        return result

    def begin(self, code: str, **members: object) -> str:
        """Have code run without waiting for it; where its outcome will be."""
        answer = self.execute(code, wait=False, **members)
        assert answer.status == 202, answer.body
        return answer.headers["Location"]

    def outcome(self, location: str) -> dict[str, Any]:
        """What became of it, once something has."""
        seen: list[dict[str, Any]] = []

        def has_ended() -> bool:
            seen[:] = [self.fleet.ask("GET", location).json]
            return seen[0]["status"] != "pending"

        wait_until(has_ended, f"{location} has an outcome")
        return seen[0]

    def show(self) -> dict[str, Any]:
        view: dict[str, Any] = self.fleet.ask("GET", self.path).json
        return view

    def kernels(self) -> list[dict[str, Any]]:
        return self.fleet.kernels(self.id)

    def kernel(self, kernel: str) -> dict[str, Any]:
        view: dict[str, Any] = self.fleet.ask("GET", f"/v1/kernels/{kernel}").json
        return view

    def change(self, **members: object) -> Answer:
        return self.fleet.ask("PATCH", self.path, members)

    def wait_ready(self, count: int | None = None) -> list[dict[str, Any]]:
        """Its kernels, once all of them are READY, and as many as `count`."""

        def are_ready() -> bool:
            kernels = self.kernels()
            return all(k["phase"] == "READY" for k in kernels) and count in (None, len(kernels))

        wait_until(are_ready, f"all kernels of {self.id} are READY")
        return self.kernels()

    def wait_restarted(self, kernel: str, restarts: int = 1) -> dict[str, Any]:
        """One of its kernels, once it is READY in its next incarnation."""

        def is_back() -> bool:
            view = self.kernel(kernel)
            return view["phase"] in ("READY", "BUSY") and view["restarts"] >= restarts

        wait_until(is_back, f"{kernel} is back")
        return self.kernel(kernel)

    @contextmanager
    def spinning(self, **members: object) -> Iterator["Spinning"]:
        """A kernel that runs a script until the end of the block."""
        location = self.begin(SPIN, **members)
        busy = next(iter(wait_for(lambda: [k for k in self.kernels() if k["usage"]["running"]], "a busy kernel")))
        wait_running(busy["pid"])
        spinning = Spinning(self, busy["id"], busy["pid"], location)
        try:
            yield spinning
        finally:
            spinning.interrupt()


@dataclass(frozen=True, slots=True)
class Spinning:
    """A script that runs until it is interrupted."""

    tenant: Tenant
    kernel: str
    pid: int
    location: str

    def interrupt(self) -> None:
        self.tenant.fleet.ask("POST", f"/v1/kernels/{self.kernel}/interrupt")

    def outcome(self) -> dict[str, Any]:
        return self.tenant.outcome(self.location)


def new_tenant(fleet: FleetHome, tenant: str = "", **members: object) -> Tenant:
    """Make one; a name of its own unless one is given."""
    name = tenant or f"t{next(_NUMBERS)}"
    answer = fleet.ask("POST", "/v1/tenants", {"id": name, **members})
    assert answer.status == 201, answer.body
    return Tenant(fleet, name, answer.json["token"], answer.json)


def wait_for(find: Callable[[], T], what: str) -> T:
    """What `find` finds, once it is something."""
    found: list[T] = []

    def look() -> bool:
        found[:] = [find()]
        return bool(found[0])

    wait_until(look, what)
    return found[0]


def wait_running(pid: int) -> None:
    """Until a process that is to run a script without an end has used the processor for it."""
    before = cpu_ticks(pid)
    wait_until(lambda: cpu_ticks(pid) >= before + 5, f"process {pid} runs a script")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def at_once(number: int, call: Callable[[int], T]) -> list[T]:
    """What `call` of 0, 1, … comes to, all begun at one moment."""
    barrier = threading.Barrier(number)

    def meet(index: int) -> T:
        barrier.wait(20)
        return call(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(meet, range(number)))


def is_gone(pid: int) -> bool:
    """Whether the process has ended, and nobody else has its number."""
    return process_start_time(pid) is None


def sse(body: bytes) -> list[tuple[str, int | None, Any]]:
    """Server-Sent Events as (event, id, data)."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((fields["event"], number, json.loads(fields["data"])))
    return found


def need_root(what: str) -> None:
    """Skip, or fail in CI, where we are not root."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} needs root")
