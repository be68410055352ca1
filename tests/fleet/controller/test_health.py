"""What /health says of real parts that are not well."""

import os
import signal

import pytest

from support.controllers import Start
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def test_a_zygote_that_is_suspended_degrades_it_at_once_and_one_that_goes_on_does_not(controller: Start) -> None:
    async with controller() as site:
        await site.tenant()
        health, pid = site.controller.health, site.spawner.pid
        assert pid is not None
        assert health.view().status == "healthy"

        os.kill(pid, signal.SIGSTOP)
        try:
            await eventually(lambda: health.view().checks["zygote"].status == "degraded", "it to be told")
            assert "is suspended" in health.view().checks["zygote"].detail
        finally:
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: health.view().status == "healthy", "it to be well")
