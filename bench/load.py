"""The load generator's process: `python -m bench.load KIND CONNECTION_FILE KERNEL_PID AMOUNT [MORE]`.

Prints one JSON object. Requests are built and signed before the clock starts; while it runs, Python's garbage
collector does not.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import zmq

from bench import proc
from bench.rawclient import IDLE, BenchError, RawClient, Request, readable, receive, send

READY_S = 30.0
SILENCE_S = 20.0
Result = dict[str, object]


class Meter:
    """Wall time, the generator's own CPU time and the kernel's, between `start` and `stop`."""

    def __init__(self, kernel_pid: int) -> None:
        self._pid = kernel_pid
        gc.collect()
        gc.disable()
        self._kernel_cpu = proc.cpu_s(kernel_pid)
        self._own_cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self) -> Result:
        """Seconds since the start: `wall_s`, `load_cpu_s`, `kernel_cpu_s`."""
        wall = time.perf_counter() - self._wall
        own, kernel = time.process_time() - self._own_cpu, proc.cpu_s(self._pid) - self._kernel_cpu
        gc.enable()
        return {"wall_s": wall, "load_cpu_s": own, "kernel_cpu_s": kernel}


def latency(client: RawClient, kernel_pid: int, amount: int) -> Result:
    """One `1+1` at a time: seconds from sending to having both the reply and the idle, for each."""
    for _ in range(min(amount, 200)):
        client.run("1+1")
    requests = [client.execute("1+1") for _ in range(amount)]
    meter = Meter(kernel_pid)
    samples = [_round_trip(client, request) for request in requests]
    return {"samples": samples, **meter.stop()}


def _round_trip(client: RawClient, request: Request) -> float:
    channels = [client.shell, client.iopub]
    started = time.perf_counter()
    send(client.shell, request)
    replied = idle = False
    while not (replied and idle):
        ready = readable(channels, SILENCE_S)
        if not ready:
            raise BenchError(f"expected reply and idle within {SILENCE_S:g} s, got {replied=} {idle=}")
        for channel in ready:
            message = receive(channel)
            if request.msg_id not in message.parent:
                continue
            if channel is client.shell:
                replied = True
            elif IDLE in message.content:
                idle = True
    return time.perf_counter() - started


def pipelined(client: RawClient, kernel_pid: int, amount: int, window: int) -> Result:
    """`amount` executes of `1+1`, at most `window` unanswered; every message of each received and counted."""
    for _ in range(min(amount, 200)):
        client.run("1+1")
    requests = [client.execute("1+1") for _ in range(amount)]
    ids = [request.msg_id for request in requests]
    channels = [client.shell, client.iopub]
    shell = client.shell
    sent = replies = idles = iopub_messages = wrong_parents = 0
    meter = Meter(kernel_pid)
    while replies < amount or idles < amount:
        while sent < amount and sent - min(replies, idles) < window:
            send(shell, requests[sent])
            sent += 1
        ready = readable(channels, SILENCE_S)
        if not ready:
            raise BenchError(f"of {amount} executes {sent} were sent, {replies} replied to, {idles} seen idle")
        for channel in ready:
            try:
                while True:
                    message = receive(channel, zmq.NOBLOCK)
                    if channel is shell:
                        wrong_parents += replies >= amount or ids[replies] not in message.parent
                        replies += 1
                        continue
                    iopub_messages += 1
                    wrong_parents += idles >= amount or ids[idles] not in message.parent
                    idles += IDLE in message.content
            except zmq.Again:
                continue
    messages = replies + iopub_messages
    return {"executes": amount, "messages": messages, "wrong_parents": wrong_parents, **meter.stop()}


def printed(client: RawClient, kernel_pid: int, amount: int, code: str) -> Result:
    """Run `code`, which prints the numbers 1 to `amount`, until idle and the last line; check the order."""
    request = client.execute(code.format(lines=amount))
    chunks: list[bytes] = []
    lines, idle = 0, False
    meter = Meter(kernel_pid)
    send(client.shell, request)
    while not idle or lines < amount:
        if not readable([client.iopub], SILENCE_S):
            raise BenchError(f"of {amount} printed lines {lines} came and then nothing for {SILENCE_S:g} s ({idle=})")
        message = receive(client.iopub)
        if b'"stream"' in message.header:
            chunks.append(message.content)
            lines += message.content.count(b"\\n")
        elif request.msg_id in message.parent and IDLE in message.content:
            idle = True
    measured = meter.stop()
    text = "".join(str(json.loads(chunk)["text"]) for chunk in chunks)
    in_order = text.split() == [str(number) for number in range(1, amount + 1)]
    return {"lines": lines, "in_order": in_order, "messages": len(chunks), **measured}


def clients(connection: Mapping[str, object], kernel_pid: int, amount: int) -> Result:
    """`amount` clients with all five channels each run one execute together; then one asks for shutdown."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context: zmq.Context[zmq.SyncSocket] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, amount * 5 + 64)
    everything = ("shell", "control", "iopub", "stdin", "hb")
    first = RawClient(connection, everything, context=context)
    first.wait_ready(READY_S)
    before = proc.memory_bytes(kernel_pid)
    crowd = [first, *(RawClient(connection, everything, context=context) for _ in range(amount - 1))]
    for client in crowd:
        client.wait_ready(READY_S)
        _heartbeat(client)
    started = time.perf_counter()
    requests = [client.execute("1+1") for client in crowd]
    for client, request in zip(crowd, requests, strict=True):
        send(client.shell, request)
    answered = sum(
        client.reply(client.shell, request, SILENCE_S) is not None
        for client, request in zip(crowd, requests, strict=True)
    )
    all_answered_s = time.perf_counter() - started
    after = proc.memory_bytes(kernel_pid)
    started = time.perf_counter()
    send(first.sockets["control"], first.request("shutdown_request", {"restart": False}))
    ended = proc.wait_for_end(kernel_pid, SILENCE_S)
    shutdown_s = time.perf_counter() - started if ended else None
    for client in crowd:
        client.close()
    context.term()
    per_client = (after["Pss"] - before["Pss"]) / max(amount - 1, 1)
    return {
        "clients": amount,
        "answered": answered,
        "all_answered_s": all_answered_s,
        "bytes_per_client": per_client,
        "shutdown_s": shutdown_s,
    }


def _heartbeat(client: RawClient) -> None:
    beat = client.sockets["hb"]
    beat.send(b"ping")
    if not beat.poll(int(SILENCE_S * 1000)) or beat.recv() != b"ping":
        raise BenchError(f"expected the heartbeat to echo within {SILENCE_S:g} s, it did not")


_KINDS: dict[str, Callable[..., Result]] = {"latency": latency, "pipelined": pipelined, "printed": printed}


def main(kind: str, connection_file: str, kernel_pid: str, amount: str, *rest: str) -> None:
    """Run one kind of load and print its result."""
    connection = json.loads(Path(connection_file).read_text())
    if kind == "clients":
        result = clients(connection, int(kernel_pid), int(amount))
    else:
        extra = [int(word) if word.isdigit() else word for word in rest]
        with RawClient(connection) as client:
            client.wait_ready(READY_S)
            result = _KINDS[kind](client, int(kernel_pid), int(amount), *extra)
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BenchError as error:
        sys.exit(str(error))
