"""What clients are answered: members that are said only when there is something to say."""

import msgspec
import pytest

from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel, KernelSpec
from llmspell_fleet.model.views import ErrorView, ExecuteView, Page

KERNEL = KernelId("00000000-0000-4000-8000-000000000001")


def members(record: msgspec.Struct) -> set[str]:
    return set(msgspec.json.decode(msgspec.json.encode(record)))


def executed(**given: object) -> ExecuteView:
    least: dict[str, object] = {
        "kernel_id": KERNEL,
        "session": "s",
        "status": "ok",
        "execution_count": 1,
        "stdout": "",
        "stderr": "",
        "result": None,
        "data": None,
        "error": None,
        "duration_s": 0.1,
    }
    return msgspec.convert({**least, **given}, ExecuteView)


def test_an_answer_says_more_only_when_there_is_more() -> None:
    least = members(executed())
    assert least.isdisjoint({"session_reset", "timeout_clipped", "timeout_s", "displays"})
    assert {"result", "data", "error"} <= least, "null is said"

    assert members(executed(session_reset=True, displays=[])) == least | {"session_reset", "displays"}


def test_a_last_page_has_no_next() -> None:
    assert members(Page(items=[])) == {"items"}
    assert members(Page(items=[1], next="2")) == {"items", "next"}


def test_an_error_has_a_code_when_it_has_one() -> None:
    error = ErrorView(name="LuaError", message="no", traceback=[])
    assert members(error) == {"name", "message", "traceback"}


def test_an_event_names_whom_it_is_about() -> None:
    whole = Event(seq=1, at="", type="fleet.started")
    assert members(whole) == {"seq", "at", "type"}
    assert members(Event(seq=1, at="", type="kernel.ready", tenant=TenantId("t"), kernel_id=KERNEL)) == {
        *("seq", "at", "type", "tenant", "kernel_id")
    }


def test_a_certificate_has_every_member() -> None:
    death = Death(kernel_id=KERNEL, tenant=TenantId("t"), incarnation=1, pid=None, at="", cause="unknown")

    assert members(death) == set(Death.__struct_fields__)


@pytest.mark.parametrize(("incarnation", "restarts"), [(0, 0), (1, 0), (2, 1), (7, 6)])
def test_restarts_are_the_incarnations_after_the_first(incarnation: int, restarts: int) -> None:
    kernel = Kernel(spec=KernelSpec(id=KERNEL, tenant=TenantId("t")), incarnation=incarnation)

    assert (kernel.restarts, kernel.id) == (restarts, KERNEL)
