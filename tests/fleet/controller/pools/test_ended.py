"""What is remembered of kernels that are no more."""

import msgspec
import pytest

from llmspell_fleet.controller.pools.ended import NOTE, Ended, Gone
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.store.store import Store


@pytest.mark.asyncio
async def test_what_another_version_remembered_and_we_cannot_read_is_forgotten(store: Store) -> None:
    spec = KernelSpec(id=KernelId("here"), tenant=TenantId("t"))
    known = msgspec.json.encode(Gone(spec, None, 0.0)).decode()

    ended = Ended(store)
    ended.restore({f"{NOTE}there": '{"spec": {"shape": "another"}}', f"{NOTE}here": known, "other": "{"})
    await store.flush()

    assert ended.kernel(KernelId("there"), None) is None
    assert ended.kernel(KernelId("here"), TenantId("t")) is not None
