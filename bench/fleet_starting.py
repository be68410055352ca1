"""What fleets cost before they do anything: up to serving, kernels up to their first answer, memory."""

import contextlib
import subprocess
import time
from datetime import datetime

from bench import gateway, proc
from bench.fleet import Fleet, fleet_home, running_fleet
from bench.peers import IPYKERNEL, OURS, System, running
from bench.rawclient import BenchError, send
from bench.report import Figure, Reading, median, percentiles
from bench.run import Contender, Run, Sheet
from bench.starting import MIB

KIB = 1024
_FEW, _MANY = 20, 200
_DAEMON_LIMIT_S = 60.0
_READY_S = 60.0
_CALM_S = 0.05
"""Between two claims: what was claimed is being replaced."""


def fleet_up(run: Run) -> Figure:
    """From exec to a server that says it is ready."""
    sheet = Sheet("fleet-up", "`fleet up`: exec to serving")
    sheet.row("p50", "ms", "lower", 600.0)
    sheet.row("p95", "ms", "lower")
    sheet.row("`--daemon` returns p50", "ms", "lower")
    amount = run.amount(10, 1)

    def ours(_system: System) -> None:
        samples, returned = [], []
        for _ in range(amount):
            with running_fleet(run.directory, kernels=2) as fleet:
                samples.append(fleet.serving_at - fleet.exec_at)
            with fleet_home(run.directory, kernels=2) as home:
                started = time.perf_counter()
                try:
                    command = home.command("fleet", "up", "--daemon")
                    subprocess.run(command, env=home.environ, check=True, capture_output=True, timeout=_DAEMON_LIMIT_S)
                    returned.append(time.perf_counter() - started)
                    home.end(int((home.runtime / "fleet.pid").read_text().split()[0]))
                except (subprocess.SubprocessError, OSError) as error:
                    raise BenchError(f"`fleet up --daemon` did not start a fleet: {error}") from error
                finally:
                    proc.kill_marked(str(home.path))
        sheet.put(OURS, percentiles(samples, tail="p95"))
        sheet.put(OURS, {"`--daemon` returns p50": median(returned, 1e3)})

    def theirs(_peer: Contender) -> None:
        samples = []
        for _ in range(run.amount(3, 1)):
            with gateway.running_gateway(run.directory) as server:
                samples.append(server.serving_at - server.exec_at)
        sheet.put(gateway.GATEWAY, percentiles(samples, tail="p95"))

    run.attempt(sheet, OURS, ours)
    run.attempt(sheet, gateway.GATEWAY, theirs)
    sheet.notes.append("two kernels of tenant `default` start meanwhile, an empty state directory is filled")
    return sheet.figure()


def fleet_start(run: Run) -> Figure:
    """From asking for kernels to having them answer."""
    few, many = run.amount(_FEW, 4), run.amount(_MANY, 10)
    sheet = Sheet("fleet-start", "Kernels of a running fleet: asked for, to answering")
    sheet.row("one p50", "ms", "lower", 8.0)
    sheet.row("one p95", "ms", "lower")
    sheet.row("of it from intent to answer p50", "ms", "lower")
    sheet.row(f"{few} together", "s", "lower", 0.15)
    sheet.row(f"{many} together", "s", "lower", 1.5)

    def ours(_system: System) -> None:
        with running_fleet(run.directory) as fleet:
            samples, inner = _ones(fleet, run.amount(60, 5))
            together = {
                amount: [_together(fleet, amount) for _ in range(run.amount(rounds, 1))]
                for amount, rounds in ((few, 7), (many, 3))
            }
        sheet.put(OURS, percentiles(samples, tail="p95", prefix="one "))
        sheet.put(OURS, {"of it from intent to answer p50": median(inner, 1e3)})
        sheet.put(OURS, {f"{amount} together": median(taken) for amount, taken in together.items()})
        sheet.notes.append(
            "llmspell: POST sent to a 201 that says READY; of it, events kernel.starting to kernel.ready"
        )

    def ipykernels(_system: System) -> None:
        taken = [_ipykernels(run, few) for _ in range(run.amount(3, 1))]
        sheet.put(IPYKERNEL, {f"{few} together": median(taken)})
        sheet.notes.append("ipykernel: processes started side by side, exec of the first to the last kernel_info_reply")

    def theirs(_peer: Contender) -> None:
        with gateway.running_gateway(run.directory) as server:
            ones = [server.start(1) for _ in range(run.amount(10, 1))]
            sheet.put(gateway.GATEWAY, percentiles(ones, tail="p95", prefix="one "))
            sheet.put(gateway.GATEWAY, {f"{few} together": Reading(server.start(few))})
        sheet.notes.append("kernel_gateway: POST sent to kernel_info_reply over WebSocket")

    run.attempt(sheet, OURS, ours)
    run.attempt(sheet, IPYKERNEL, ipykernels)
    run.attempt(sheet, gateway.GATEWAY, theirs)
    return sheet.figure()


def _ones(fleet: Fleet, amount: int) -> tuple[list[float], list[float]]:
    """Seconds of each start: as asked over HTTP, and between the fleet's own two events."""
    samples, inner = [], []
    fleet.create_tenant("ones", 1)
    with fleet.events() as events:
        for _ in range(amount):
            started = time.perf_counter()
            kernel = fleet.ask("POST", "/v1/kernels", {"tenant": "ones"})
            samples.append(time.perf_counter() - started)
            if kernel["phase"] != "READY":
                raise BenchError(f"expected a kernel that is READY, it is {kernel['phase']}")
            ((_, began),) = events.wait("kernel.starting", {kernel["id"]}).values()
            ((_, ready),) = events.wait("kernel.ready", {kernel["id"]}).values()
            taken = datetime.fromisoformat(ready["at"]) - datetime.fromisoformat(began["at"])
            inner.append(taken.total_seconds())
    fleet.ask("DELETE", "/v1/tenants/ones")
    return samples, inner


def _together(fleet: Fleet, amount: int) -> float:
    started = time.perf_counter()
    fleet.create_tenant("together", amount)
    taken = time.perf_counter() - started
    fleet.ask("DELETE", "/v1/tenants/together")
    return taken


def _ipykernels(run: Run, amount: int) -> float:
    with contextlib.ExitStack() as held:
        started = time.perf_counter()
        kernels = [held.enter_context(running(IPYKERNEL, run.directory)) for _ in range(amount)]
        clients = [held.enter_context(kernel.client()) for kernel in kernels]
        requests = [client.request("kernel_info_request") for client in clients]
        for client, request in zip(clients, requests, strict=True):
            send(client.shell, request)
        for kernel, client, request in zip(kernels, clients, requests, strict=True):
            if client.reply(client.shell, request, _READY_S) is None:
                raise BenchError(f"expected all {amount} to answer, {kernel.last_words()}")
        return time.perf_counter() - started


def fleet_claim(run: Run) -> Figure:
    """A kernel that was ready before anybody needed it, beside one that is made when it is asked for."""
    amount = run.amount(50, 5)
    sheet = Sheet("fleet-claim", "A warm kernel claimed")
    for level, what, target_ms in (("", "claim", 1.0), ("strict: ", "claim to READY", 5.0)):
        sheet.row(f"{level}{what}, inside the controller: mean", "ms", "lower", target_ms)
        sheet.row(f"{level}POST to a 201 that says READY p50", "ms", "lower")
        sheet.row(f"{level}POST to a 201 that says READY p95", "ms", "lower")
        sheet.row(f"{level}of the claims: hits", "%", "higher", 100.0)

    def ours(_system: System) -> None:
        with running_fleet(run.directory, tables={"fleet.warm": f"size = {amount}"}) as fleet:
            _until_warm(fleet, amount)
            fleet.create_tenant("claims", 0)
            sheet.put(OURS, _claims(fleet, amount // 2, "", "claim"))
        with running_fleet(run.directory) as fleet:
            fleet.create_tenant("claims", 0, isolation_level="strict", warm_size=amount)
            _until_warm(fleet, amount)
            sheet.put(OURS, _claims(fleet, amount // 2, "strict: ", "claim to READY"))

    run.attempt(sheet, OURS, ours)
    sheet.notes.append("the pool is refilled meanwhile; `fleet-start` has what a kernel takes that is not warm")
    return sheet.figure()


def _claims(fleet: Fleet, amount: int, level: str, what: str) -> dict[str, Reading]:
    """Readings of so many claims of tenant `claims`, one after the other."""
    samples = []
    for _ in range(amount):
        time.sleep(_CALM_S)
        started = time.perf_counter()
        kernel = fleet.ask("POST", "/v1/kernels", {"tenant": "claims"})
        samples.append(time.perf_counter() - started)
        if kernel["phase"] != "READY":
            raise BenchError(f"expected a kernel that is READY, it is {kernel['phase']}")
    metrics = fleet.metrics()
    claims = metrics["llmspell_warm_claim_duration_seconds_count"]
    mean_s = metrics["llmspell_warm_claim_duration_seconds_sum"] / max(1.0, claims)
    return {
        f"{level}{what}, inside the controller: mean": Reading(mean_s * 1e3),
        **percentiles(samples, tail="p95", prefix=f"{level}POST to a 201 that says READY "),
        f"{level}of the claims: hits": Reading(100 * claims / amount),
    }


def _until_warm(fleet: Fleet, amount: int) -> None:
    deadline = time.monotonic() + _READY_S
    while fleet.metrics().get('llmspell_warm_kernels{phase="READY"}', 0) < amount:
        if time.monotonic() > deadline:
            raise BenchError(f"expected {amount} warm kernels within {_READY_S:g} s")
        time.sleep(_CALM_S)


def fleet_memory(run: Run) -> Figure:
    """What a kernel of many costs, in its own process and in the controller's."""
    few, many = run.amount(_FEW, 4), run.amount(_MANY, 10)
    sheet = Sheet("fleet-memory", f"Memory of each of {many} kernels, and of the controller for each")
    sheet.row("PSS per kernel, READY", "MiB", "lower", 3.3)
    sheet.row("PSS per kernel, after one execute", "MiB", "lower")
    sheet.row("controller per kernel", "KiB", "lower", 60.0)
    sheet.row(f"controller with {few} kernels, PSS", "MiB", "lower")

    def ours(_system: System) -> None:
        with running_fleet(run.directory, kernels=few) as fleet:
            with fleet.events() as events:
                events.wait("kernel.ready", {kernel["id"] for kernel in fleet.kernels("default")})
            before = proc.memory_bytes(fleet.pid, alone=True)
            kernels = fleet.create_tenant("many", many, strategy="round_robin")
            after = proc.memory_bytes(fleet.pid, alone=True)
            fresh = _pss(kernels)
            used = {fleet.execute("many", "return 1+1")["kernel_id"] for _ in kernels}
            if len(used) != many:
                raise BenchError(f"expected round_robin to visit {many} kernels, it visited {len(used)}")
            warm = _pss(kernels)
        readings = {
            "PSS per kernel, READY": Reading(fresh / many / MIB),
            "PSS per kernel, after one execute": Reading(warm / many / MIB),
            "controller per kernel": Reading((after["Rss"] - before["Rss"]) / many / KIB),
            f"controller with {few} kernels, PSS": Reading(before["Pss"] / MIB),
        }
        sheet.put(OURS, readings)

    def ipykernels(system: System) -> None:
        with contextlib.ExitStack() as held:
            kernels = [held.enter_context(run.ready(system)) for _ in range(few)]
            each = sum(proc.memory_bytes(kernel.pid)["Pss"] for kernel in kernels) / few
        sheet.put(IPYKERNEL, {"PSS per kernel, after one execute": Reading(each / MIB)})
        sheet.notes.append(f"{few} ipykernels, each after one execute")

    def theirs(_peer: Contender) -> None:
        with gateway.running_gateway(run.directory) as server:
            server.start(few, keep=True)
            alone = proc.memory_bytes(server.pid, alone=True)["Pss"]
        sheet.put(gateway.GATEWAY, {f"controller with {few} kernels, PSS": Reading(alone / MIB)})

    run.attempt(sheet, OURS, ours)
    run.attempt(sheet, IPYKERNEL, ipykernels)
    run.attempt(sheet, gateway.GATEWAY, theirs)
    sheet.notes.append(
        f"controller per kernel: growth of its RSS from {few} kernels to {few + many}, divided by {many}"
    )
    return sheet.figure()


def _pss(kernels: list[dict[str, int]]) -> int:
    return sum(proc.memory_bytes(kernel["pid"])["Pss"] for kernel in kernels)
