"""A real process in a kernel's place that does not do what a kernel does: it is ended, and a kernel follows."""

import pytest

from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.spawner.scripted import Step
from support.controllers import fleet_paths, ready_again, running
from support.kernels import READY_S
from support.tenants import is_gone

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.asyncio]  # they are found out by a deadline

START_DEADLINE_S = 0.5
POLICY = RestartPolicy(
    max_restarts=1000,
    first_delay_s=0.01,
    longest_delay_s=0.01,
    start_deadline_s=START_DEADLINE_S,
    stop_deadline_s=READY_S,
    drain_deadline_s=READY_S,
)
STEPS: dict[Step, str] = {
    "never_binds": "not_ready",
    "hang": "not_ready",
    "never_answers": "not_ready",
    "answers_garbage": "not_ready",
    "refuse": "signal",
    "crash_early": "signal",
    "crash_late": "signal",
    "fail": "spawn_failed",
}


@pytest.mark.parametrize("step", STEPS)
async def test_who_is_no_kernel_is_ended_and_replaced_by_one(step: Step) -> None:
    with fleet_paths() as paths:
        async with running(paths, restart=POLICY) as site:
            neighbour = await site.tenant("neighbour")
            tenant = await site.tenant("victim", step, step, replicas=1)
            (entry,) = tenant.entries.values()
            kernel = await ready_again(entry, 3)

            assert kernel.last_death is not None
            assert kernel.last_death.cause == STEPS[step], kernel.last_death
            # It takes work only once it is a kernel that answers.
            assert (await site.execute(tenant, "return 6 * 7"))["result"] == "42"
            assert (await site.execute(neighbour, "return 1"))["result"] == "1"
            assert kernel.incarnation == 3
            assert kernel.last_death.pid is None or is_gone(kernel.last_death.pid)
