"""jupyter_kernel_gateway with ipykernels: the peer that serves kernels over HTTP and WebSocket."""

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from bench import proc
from bench.peers import environment, free_ports
from bench.rawclient import EXECUTE, BenchError

T = TypeVar("T")
_PATIENCE_S = 60.0
_LOOK_AGAIN_S = 0.002
_ASK_AGAIN_S = 0.05
_ENDPOINT_PATIENCE = aiohttp.ClientTimeout(total=_PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Peer:
    """What is compared, by name, and why it cannot be measured here; a short run may want less."""

    name: str
    why_missing: Callable[[bool], str | None]


def _why_missing(_is_short: bool) -> str | None:
    return None if find_spec("kernel_gateway") else "kernel_gateway is not installed: `make setup` installs it"


GATEWAY = Peer("kernel_gateway", _why_missing)


@dataclass(slots=True)
class Gateway:
    """A gateway that serves. `exec_at` and `serving_at` are instants by `time.perf_counter`."""

    pid: int
    port: int
    exec_at: float
    serving_at: float

    def start(self, amount: int, *, keep: bool = False) -> float:
        """Start so many kernels together; seconds from the first POST to the last kernel_info_reply."""
        return self._run(self._start(amount, keep=keep))

    def executes(self, amount: int) -> list[float]:
        """`1+1` on one kernel over one WebSocket, one at a time: seconds to reply and idle, for each."""
        return self._run(self._executes(amount))

    def repairs(self, amount: int) -> list[float]:
        """SIGKILL to a kernel: seconds until its successor answers kernel_info over WebSocket."""
        return self._run(self._repairs(amount))

    def _run(self, work: Coroutine[None, None, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(_PATIENCE_S * 2):
                return await work

        try:
            return asyncio.run(bounded())
        except* (aiohttp.ClientError, OSError, TimeoutError) as faults:
            raise BenchError(f"the gateway did not serve: {faults.exceptions[0]!r}") from faults

    async def _start(self, amount: int, *, keep: bool) -> float:
        async with self._client() as client, asyncio.TaskGroup() as group:
            started = time.perf_counter()

            async def one() -> str:
                async with self._kernel(client) as (kernel, channels):
                    await channels.ask("kernel_info_request", {})
                    return kernel

            tasks = [group.create_task(one()) for _ in range(amount)]
            kernels = [await task for task in tasks]
            taken = time.perf_counter() - started
            if not keep:
                for kernel in kernels:
                    (await client.delete(f"/api/kernels/{kernel}")).close()
        return taken

    async def _executes(self, amount: int) -> list[float]:
        async with self._client() as client, self._kernel(client) as (_, channels):
            samples = []
            for _ in range(amount):
                started = time.perf_counter()
                await channels.ask("execute_request", {**EXECUTE, "code": "1+1"}, until_idle=True)
                samples.append(time.perf_counter() - started)
            return samples

    async def _repairs(self, amount: int) -> list[float]:
        async with self._client() as client, self._kernel(client) as (_, channels):
            samples = []
            await channels.ask("kernel_info_request", {})
            for _ in range(amount):
                (child,) = proc.tree(self.pid)[1:2]
                killed = time.perf_counter()
                os.kill(child, signal.SIGKILL)
                await channels.ask_until_answered()
                samples.append(time.perf_counter() - killed)
                await asyncio.sleep(1.0)
            return samples

    def _client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", timeout=_ENDPOINT_PATIENCE)

    @contextlib.asynccontextmanager
    async def _kernel(self, client: aiohttp.ClientSession) -> "AsyncIterator[tuple[str, _Channels]]":
        """A new kernel, and its channels."""
        async with client.post("/api/kernels", json={"name": "python3"}) as made:
            made.raise_for_status()
            kernel = (await made.json())["id"]
        async with client.ws_connect(f"/api/kernels/{kernel}/channels", max_msg_size=0) as link:
            yield kernel, _Channels(link)


class _Channels:
    """The channels of one kernel on one WebSocket, as JSON text."""

    def __init__(self, link: aiohttp.ClientWebSocketResponse) -> None:
        self._link = link
        self._session = uuid.uuid4().hex

    async def ask(self, kind: str, content: dict[str, Any], *, until_idle: bool = False) -> None:
        """Send a request on shell; returns when its reply has come, and its idle too if asked for."""
        number = await self._send(kind, content)
        await self._wait({number}, until_idle=until_idle)

    async def ask_until_answered(self) -> None:
        """Ask for kernel_info again and again until one of the requests is replied to."""
        numbers: set[str] = set()
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            numbers.add(await self._send("kernel_info_request", {}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN_S):
                    await self._wait(numbers, until_idle=False)
                    return
        raise TimeoutError(f"no kernel_info_reply within {_PATIENCE_S:g} s")

    async def _send(self, kind: str, content: dict[str, Any]) -> str:
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": kind, "session": self._session, "username": "bench", "version": "5.4"}
        parts = {"header": {**header, "date": "2024-01-01T00:00:00.000000Z"}, "parent_header": {}, "metadata": {}}
        await self._link.send_json({**parts, "content": content, "channel": "shell", "buffers": []})
        return number

    async def _wait(self, numbers: set[str], *, until_idle: bool) -> None:
        replied, idle = False, not until_idle
        while not (replied and idle):
            message = await self._link.receive_json()
            if message["parent_header"].get("msg_id") not in numbers:
                continue
            replied = replied or message["channel"] == "shell"
            idle = idle or message["content"].get("execution_state") == "idle"


@contextlib.contextmanager
def running_gateway(directory: Path) -> Iterator[Gateway]:
    """Start a gateway; it and its kernels are killed on leaving."""
    with tempfile.TemporaryDirectory(prefix="gateway-", dir=directory) as made:
        (port,) = free_ports(1)
        options = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "auth_token": ""}
        command = [sys.executable, "-m", "kernel_gateway"]
        command += [f"--KernelGatewayApp.{name}={value}" for name, value in options.items()]
        environ = {**environment(Path(made)), "LLMSPELL_BENCH_MARK": made}
        log = Path(made) / "output.log"
        with log.open("wb") as output:
            exec_at = time.perf_counter()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, start_new_session=True
            )
        try:
            _wait_until_served(process, port, log)
            yield Gateway(process.pid, port, exec_at, time.perf_counter())
        finally:
            process.kill()
            process.wait()
            proc.kill_marked(made)


def _wait_until_served(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/api")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise BenchError(f"expected a gateway that serves, it said {said}") from error
        else:
            return
        finally:
            connection.close()
        time.sleep(_LOOK_AGAIN_S)
