import signal, time, asyncio, pytest
from support.controllers import *
from support.controllers import running, fleet_paths
pytestmark = [pytest.mark.asyncio]
async def test_frozen_idle():
    with fleet_paths() as paths:
        async with running(paths) as site:
            t = await site.tenant()
            kill(only(t), signal.SIGSTOP)
            for _ in range(3):
                b = time.monotonic()
                r = await site.execute(t, "return 1", timeout_s=0.3)
                print(r["status"], r["error"], time.monotonic() - b, only(t).kernel.phase)
            await asyncio.sleep(4)
            print(only(t).kernel.phase, only(t).kernel.incarnation, only(t).load)
async def test_adopt_without_dir():
    pass
