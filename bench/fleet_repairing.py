"""From kill -9 to a replacement that answers, and how children of process managers compare."""

import random
import time

from bench import gateway, proc
from bench.fleet import EventStream, Fleet, kill, running_fleet
from bench.managers import MANAGERS, Manager, running_manager
from bench.peers import OURS, System
from bench.rawclient import BenchError
from bench.report import Figure, Reading, median, percentiles
from bench.run import Contender, Run, Sheet
from bench.starting import MIB

_CHILDREN = 50
_CALM_S = 0.03
"""Between one repair and the next kill: the store has written and the logs are out."""


def fleet_repair(run: Run) -> Figure:
    """SIGKILL to kernels, to each once: no second crash within the window delays a restart."""
    many = run.amount(200, 10)
    sheet = Sheet("fleet-repair", "kill -9 of kernels to their replacements answering")
    sheet.row("one p50", "ms", "lower", 15.0)
    sheet.row("one p95", "ms", "lower")
    sheet.row("one, to the answer of an execute p50", "ms", "lower")
    sheet.row(f"all {many}", "s", "lower", 1.5)

    def ours(_system: System) -> None:
        amount = run.amount(50, 5)
        with running_fleet(run.directory) as fleet, fleet.events() as events:
            sheet.put(OURS, percentiles(_one_by_one(fleet, events, amount), tail="p95", prefix="one "))
            executed = _until_executed(fleet, events, amount)
            sheet.put(OURS, {"one, to the answer of an execute p50": median(executed, 1e3)})
            fleet.create_tenant("all", many)
            everyone = _all(fleet, events, "all")
        sheet.put(OURS, {f"all {many}": Reading(everyone)})
        sheet.notes.append(
            "llmspell: until its event kernel.ready is read: the replacement has answered the controller"
        )
        sheet.notes.append(
            "to the answer of an execute: POST right after the kill, in a session that lives on that kernel"
        )

    def theirs(_peer: Contender) -> None:
        with gateway.running_gateway(run.directory) as server:
            sheet.put(gateway.GATEWAY, percentiles(server.repairs(run.amount(5, 1)), tail="p95", prefix="one "))
        sheet.notes.append("kernel_gateway: until a kernel_info_reply over WebSocket, asked for every 50 ms")

    run.attempt(sheet, OURS, ours)
    run.attempt(sheet, gateway.GATEWAY, theirs)
    return sheet.figure()


def _one_by_one(fleet: Fleet, events: EventStream, amount: int) -> list[float]:
    kernels = fleet.create_tenant("victims", amount)
    events.wait("kernel.ready", {kernel["id"] for kernel in kernels})
    samples = []
    for kernel in kernels:
        time.sleep(_CALM_S)
        at = kill([kernel])
        ((ready, _),) = events.wait("kernel.ready", {kernel["id"]}).values()
        samples.append(ready - at)
    fleet.ask("DELETE", "/v1/tenants/victims")
    return samples


def _until_executed(fleet: Fleet, events: EventStream, amount: int) -> list[float]:
    kernels = {kernel["id"]: kernel for kernel in fleet.create_tenant("sessions", amount, strategy="sticky")}
    events.wait("kernel.ready", kernels)
    homes: dict[str, str] = {}
    for number in range(amount * 2):
        answer = fleet.execute("sessions", "return 1+1", session=f"s{number}")
        homes.setdefault(answer["kernel_id"], answer["session"])
    samples = []
    for kernel, session in homes.items():
        time.sleep(_CALM_S)
        at = kill([kernels[kernel]])
        answer = fleet.execute("sessions", "return 1+1", session=session)
        samples.append(time.perf_counter() - at)
        if answer["kernel_id"] != kernel:
            raise BenchError(f"expected the session to stay with {kernel}, it went to {answer['kernel_id']}")
    fleet.ask("DELETE", "/v1/tenants/sessions")
    return samples


def _all(fleet: Fleet, events: EventStream, tenant: str) -> float:
    kernels = fleet.kernels(tenant)
    ids = {kernel["id"] for kernel in kernels}
    events.wait("kernel.ready", ids)
    time.sleep(1.0)
    at = kill(kernels)
    return max(ready for ready, _ in events.wait("kernel.ready", ids).values()) - at


def fleet_children(run: Run) -> Figure:
    """A manager with 50 children: ours are kernels that answer, theirs a shell that becomes `sleep`."""
    amount = run.amount(_CHILDREN, 5)
    sheet = Sheet("fleet-children", f"{amount} children of a process manager: started, repaired")
    sheet.row("manager's exec to all up", "s", "lower")
    sheet.row("kill -9 of one, to its replacement p50", "ms", "lower")
    sheet.row("kill -9 of all, to all up", "s", "lower")
    sheet.row("manager's PSS", "MiB", "lower")

    def ours(_system: System) -> None:
        ups, ones, everyone, weights = [], [], [], []
        for _ in range(run.amount(3, 1)):
            with running_fleet(run.directory, kernels=amount) as fleet, fleet.events() as events:
                kernels = fleet.kernels("default")
                ready = events.wait("kernel.ready", {kernel["id"] for kernel in kernels})
                ups.append(max(at for at, _ in ready.values()) - fleet.exec_at)
                weights.append(proc.memory_bytes(fleet.pid, alone=True)["Pss"])
                fleet.create_tenant("all", amount)
                everyone.append(_all(fleet, events, "all"))
                ones += _one_by_one(fleet, events, run.amount(20, 3))
        put(OURS, ups, ones, everyone, weights)

    def theirs(manager: Manager) -> None:
        settle_s = 0.1 if run.short else manager.settle_s
        ups, ones, everyone, weights = [], [], [], []
        for _ in range(run.amount(3, 1)):
            with running_manager(manager, run.directory, amount) as children:
                ups.append(children.wait(amount) - children.exec_at)
                time.sleep(settle_s)
                weights.append(children.manager_bytes())
                for pid in random.sample(children.pids, run.amount(4, 1)):
                    ones.append(children.kill([pid]))
                    time.sleep(settle_s)
                everyone.append(children.kill(list(children.pids)))
        put(manager, ups, ones, everyone, weights)

    def put(system: Contender, ups: list[float], ones: list[float], everyone: list[float], weights: list[int]) -> None:
        readings: dict[str, Reading] = {
            "manager's exec to all up": median(ups),
            "kill -9 of one, to its replacement p50": median(ones, 1e3),
            "kill -9 of all, to all up": median(everyone),
            "manager's PSS": median(weights, 1 / MIB),
        }
        sheet.put(system, readings)

    run.attempt(sheet, OURS, ours)
    for manager in MANAGERS:
        run.attempt(sheet, manager, theirs)
    sheet.notes.append("llmspell: kernels that have answered; the others: shells that have begun to run, which is less")
    return sheet.figure()
