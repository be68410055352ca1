"""A process in a kernel's place that says what it likes: nobody else hears it, and it is replaced, with a cause."""

import json
import resource
from typing import Any

import pytest

from llmspell_fleet.errors import KernelDiedError
from llmspell_fleet.spawner.misbehaving import CRAM, FLOOD
from support.controllers import Start, only, ready_again, request

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

GOOD: dict[str, Any] = {
    "status": "ok",
    "execution_count": 1,
    "stdout": "",
    "stderr": "",
    "result": "lied",
    "data": None,
    "error": None,
    "duration_s": 0.1,
}
SAID: dict[str, tuple[str, str]] = {
    "no JSON": ('{"status":"ok"', "it said what is no RunReply"),
    "no UTF-8": (json.dumps({**GOOD, "stdout": "HERE"}).replace("HERE", "\xff"), "it said what is no RunReply"),
    "nesting": ('{"status":"ok","data":{"a":' + "[" * 100_000, "it said what is no RunReply"),
    "a message without an end": (FLOOD, "it sends a message of more than"),
    "replies to nobody without an end": (CRAM, "things that answer nothing"),
}


@pytest.mark.parametrize("case", SAID)
@pytest.mark.parametrize("key", [None, "k"])
async def test_who_lies_is_replaced_and_its_execution_is_lost(controller: Start, case: str, key: str | None) -> None:
    code, detail = SAID[case]
    async with controller() as site:
        tenant = await site.tenant("t", "answers_as_told", replicas=1)
        entry = only(tenant)
        await ready_again(entry, 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if key is None:
            with pytest.raises(KernelDiedError, match=r"died while it ran|died before it ran"):
                await site.controller.service.execute(tenant.id, request(code), key=None)
        else:
            recorded = await site.controller.service.execute(tenant.id, request(code), key=key)
            assert (recorded.status, json.loads(recorded.body)["status"]) == (502, 502)
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        await ready_again(entry, 2)

        death = entry.kernel.last_death
        assert death is not None
        assert death.cause == "unresponsive"
        assert detail in (death.detail or "")
        assert "kernel.died" in [event.type for event in site.events(entry)]
        assert (await site.execute(tenant, "return 'well'"))["result"] == "well"
        assert grown_mib < 64


async def test_what_it_says_overrides_nothing_of_the_controllers(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "answers_as_told", replicas=1)
        await ready_again(entry := only(tenant), 1)
        lie = json.dumps({**GOOD, "kernel_id": "another", "session": "another"})[:-1] + ',"result":"twice"}'
        executed = await site.controller.service.execute(tenant.id, request(lie), key="k")
        again = await site.controller.service.execute(tenant.id, request(lie), key="k")

        answer = json.loads(executed.body, object_pairs_hook=lambda pairs: pairs)
        names = [name for name, _ in answer]
        assert len(names) == len(set(names))
        assert dict(answer)["kernel_id"] == entry.id
        assert dict(answer)["result"] == "twice"
        assert again.body == executed.body
