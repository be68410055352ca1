"""What a kernel costs before it does anything: cold start, memory, the connection file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench import proc
from bench.peers import IPYKERNEL, OURS, PORTS, System, new_connection, running
from bench.rawclient import BenchError
from bench.report import Figure, Reading, median, percentiles
from bench.run import Run, Sheet

MIB = 1024 * 1024
_START_LIMIT_S = 30.0
_STARTS_FORGIVEN = 5  # of a peer: ilua dies of a request that arrives before all of its sockets are made


def cold_start(run: Run) -> Figure:
    """From just before exec to the first kernel_info_reply, by a client that tries every 1–2 ms."""
    sheet = Sheet("cold-start", "Cold start: exec to the first kernel_info_reply")
    sheet.row("p50", "ms", "lower", 60.0)
    sheet.row("p95", "ms", "lower")
    samples: dict[str, list[float]] = {system.name: [] for system in run.systems}
    failures: dict[str, list[str]] = {system.name: [] for system in run.systems}

    def start_once(system: System) -> None:
        with running(system, run.directory) as kernel, kernel.client(reconnect_ms=1) as client:
            request = client.request("kernel_info_request")
            try:
                client.ask("shell", request, _START_LIMIT_S)
            except BenchError as error:
                failures[system.name].append(f"{error}; {kernel.last_words()}")
                if system is OURS or len(failures[system.name]) > _STARTS_FORGIVEN:
                    raise BenchError(failures[system.name][-1]) from error
                return
            samples[system.name].append(time.perf_counter() - kernel.exec_at)

    for system in sheet.rounds(run.systems, 1 + run.amount(20, 2), start_once):
        # The first start of each compiles .pyc files and fills the page cache.
        sheet.put(system, percentiles(samples[system.name][1:], tail="p95"))
        if failed := failures[system.name]:
            sheet.notes.append(f"{system.name} did not survive {len(failed)} of its starts: {failed[-1]}")
    sheet.notes.append("systems interleaved run by run, one uncounted start of each before")
    return sheet.figure()


def memory(run: Run) -> Figure:
    """Memory of one kernel, with its children, after it answered one execute and its client left."""
    sheet = Sheet("memory", "Memory of a lone kernel after one execute")
    sheet.row("PSS", "MiB", "lower", 14.0)
    sheet.row("private", "MiB", "lower")
    sheet.row("RSS", "MiB", "lower")

    def weigh(system: System) -> None:
        taken: list[dict[str, int]] = []
        others: dict[str, int] = {}
        for _ in range(run.amount(5, 1)):
            with run.ready(system) as kernel:
                taken.append(proc.memory_bytes(kernel.pid))
                others = proc.sharers(kernel.pid)
        labels = {"PSS": "Pss", "private": "Private", "RSS": "Rss"}
        sheet.put(system, {label: median([each[key] for each in taken], 1 / MIB) for label, key in labels.items()})
        mapped = ", ".join(f"{name} by {count}" for name, count in others.items())
        sheet.notes.append(f"{system.name}: other processes that map the same files: {mapped}")

    for system in run.systems:
        sheet.attempt(system, weigh)
    sheet.notes.append(
        "PSS divides shared pages among those that map them; RSS is what it would be with no other process"
    )
    return sheet.figure()


def connection_file(run: Run) -> Figure:
    """The cost of writing a connection file, by each project's own function, ports already known."""
    sheet = Sheet("connection-file", "Connection file: the cost of writing one")
    sheet.row("p50", "ms", "lower", 2.0)
    sheet.row("p99", "ms", "lower")
    writers = {OURS.name: _our_writer, IPYKERNEL.name: _jupyter_client_writer}

    def write(system: System) -> None:
        make = writers.get(system.name)
        if make is None:
            sheet.put(system, {"p50": Reading(word="–"), "p99": Reading(word="–")})
            return
        write_one, samples = make(run.directory), []
        for _ in range(run.amount(500, 50)):
            started = time.perf_counter()
            write_one()
            samples.append(time.perf_counter() - started)
        sheet.put(system, percentiles(samples))

    for system in run.systems:
        sheet.attempt(system, write)
    sheet.notes.append("ipykernel's is jupyter_client's write_connection_file; ilua has no function of its own for it")
    return sheet.figure()


def _our_writer(directory: Path) -> Callable[[], object]:
    from llmspell_kernel.connection import ConnectionInfo, write_connection_file

    info = msgspec.convert(new_connection(OURS.name), ConnectionInfo)
    target = str(directory / "llmspell.json")
    return lambda: write_connection_file(target, info)


def _jupyter_client_writer(directory: Path) -> Callable[[], object]:
    from jupyter_client.connect import write_connection_file

    given = new_connection("bench")
    ports: dict[str, Any] = {port: given[port] for port in PORTS}
    target = str(directory / "jupyter-client.json")
    return lambda: write_connection_file(target, **ports, ip="127.0.0.1", key=b"key", kernel_name="bench")
