"""What a kernel does for its clients while a script runs that never ends by itself."""

import os
import signal
import time
from collections.abc import Callable

from bench.peers import Kernel, System
from bench.rawclient import BenchError, RawClient, Request, send
from bench.report import Figure, Reading, percentiles
from bench.run import Run, Sheet

_SETTLED_S = 0.02
Interrupt = Callable[[Kernel, RawClient], None]


def interrupt(run: Run) -> Figure:
    """An endless loop: from the interrupt to the execute_reply, by interrupt_request and by SIGINT."""
    sheet = Sheet("interrupt", "Interrupt of an endless loop to its execute_reply")
    ways: dict[str, Interrupt] = {"interrupt_request": _by_message, "SIGINT": _by_signal}
    for way in ways:
        sheet.row(f"{way} p50", "ms", "lower", 2.0)
        sheet.row(f"{way} p99", "ms", "lower")
    patience_s = run.amount(10, 2)

    def stop_loops(system: System) -> None:
        for way, ask in ways.items():
            with run.ready(system) as kernel, kernel.ready_client() as client:
                samples = []
                for _ in range(run.amount(50, 3)):
                    took = _stop_one_loop(kernel, client, ask, patience_s)
                    if took is None:
                        break
                    samples.append(took)
                else:
                    sheet.put(system, percentiles(samples, prefix=f"{way} "))
                    continue
                never = Reading(word=f"never ({patience_s} s)" if kernel.is_alive() else "it died")
                sheet.put(system, {f"{way} p50": never, f"{way} p99": never})
                sheet.notes.append(f"{way}: after {len(samples)} answers, {kernel.last_words()}")

    for system in run.systems:
        sheet.attempt(system, stop_loops)
    return sheet.figure()


def kernel_info(run: Run) -> Figure:
    """kernel_info on the shell channel, one at a time, while a script loops."""
    sheet = Sheet("busy-kernel-info", "kernel_info on shell while a script loops")
    sheet.row("p50", "ms", "lower", 1.0)
    sheet.row("p99", "ms", "lower")
    patience_s = run.amount(5, 2)

    def ask_while_busy(system: System) -> None:
        with run.ready(system) as kernel, kernel.ready_client() as client:
            _start_loop(kernel, client)
            samples = []
            for _ in range(run.amount(1000, 50)):
                request = client.request("kernel_info_request")
                started = time.perf_counter()
                send(client.shell, request)
                if client.reply(client.shell, request, patience_s) is None:
                    silent = Reading(word=f"no answer ({patience_s} s)")
                    sheet.put(system, {"p50": silent, "p99": silent})
                    return
                samples.append(time.perf_counter() - started)
            sheet.put(system, percentiles(samples))

    for system in run.systems:
        sheet.attempt(system, ask_while_busy)
    return sheet.figure()


def _start_loop(kernel: Kernel, client: RawClient) -> Request:
    request = client.execute(kernel.system.loop)
    send(client.shell, request)
    client.wait_iopub(request, b'"code"')  # its execute_input: the kernel has taken it up
    time.sleep(_SETTLED_S)
    return request


def _stop_one_loop(kernel: Kernel, client: RawClient, ask: Interrupt, patience_s: float) -> float | None:
    """Seconds from asking to the execute_reply; None when it did not come."""
    request = _start_loop(kernel, client)
    started = time.perf_counter()
    ask(kernel, client)
    reply = client.reply(client.shell, request, patience_s)
    took = time.perf_counter() - started
    if reply is None:
        return None
    if b'"ok"' in reply.content:
        raise BenchError(f"expected the reply to say that the loop was stopped, it is {reply.content[:200]!r}")
    client.wait_iopub(request, b'"idle"')
    return took


def _by_message(_kernel: Kernel, client: RawClient) -> None:
    send(client.sockets["control"], client.request("interrupt_request"))


def _by_signal(kernel: Kernel, _client: RawClient) -> None:
    os.kill(kernel.pid, signal.SIGINT)
