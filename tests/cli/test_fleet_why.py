"""``fleet why``: one kernel explained, for people and for programs."""

import json

from llmspell_cli.commands.fleet_why import _lines
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.why import Coming, WhyView
from support.commands import Commands

_ID = KernelId("9589393a-f055-475a-b70f-a04622e3bd7e")


def _death(number: int, *lines: str) -> Death:
    return Death(
        kernel_id=_ID,
        tenant=TenantId("acme"),
        incarnation=number,
        pid=7,
        at="2026-01-01T00:00:00Z",
        cause="signal",
        signal="SIGKILL",
        stderr=lines,
    )


def test_a_kernel_is_shown_with_why_and_what_comes_next() -> None:
    view = WhyView(
        kernel_id=_ID,
        name="worker",
        tenant=TenantId("acme"),
        phase="READY",
        summary="It is ready (process 7, up 1m), and nothing of the fleet's runs in it.",
        because=["This is incarnation 3: it was started again 2 times."],
        next=[
            Coming(what="culled", in_s=63.2, at="x", setting="idle_timeout_s = 600", detail="if nobody uses it"),
            Coming(what="started again", setting="[fleet.restart] max_restarts = 5", detail="if it crashes: at once"),
        ],
        deaths=[_death(2, *(f"line {number}" for number in range(7))), _death(1)],
    )

    assert list(_lines(view)) == [
        "kernel     9589393a-f055-475a-b70f-a04622e3bd7e (worker) of tenant acme",
        "phase      READY",
        "why        It is ready (process 7, up 1m), and nothing of the fleet's runs in it.",
        "           This is incarnation 3: it was started again 2 times.",
        "stderr     the last 5 of 7 lines:",
        *(f"             line {number}" for number in range(2, 7)),
        "next       in 1m3s: culled if nobody uses it (idle_timeout_s = 600)",
        "           started again if it crashes: at once ([fleet.restart] max_restarts = 5)",
        "deaths     2 are kept, 2 signal",
    ]


def test_long_sentences_are_wrapped_below_themselves() -> None:
    view = WhyView(
        kernel_id=_ID,
        name="",
        tenant=TenantId("_warm"),
        phase="READY",
        summary="word " * 40,
        because=[],
        next=[],
        deaths=[],
    )
    lines = list(_lines(view))

    assert lines[0].endswith("nobody's yet (warm)")
    assert all(len(line) <= 102 for line in lines)
    assert lines[3].startswith("             word")


def test_it_is_asked_by_the_beginning_of_an_id_or_the_whole(llmspell: Commands) -> None:
    listed = json.loads(llmspell("fleet", "list", "--output", "json").out)
    kernel = listed[0]["id"]

    for named in (kernel, kernel.upper(), kernel[:12]):
        told = llmspell("fleet", "why", named)
        assert (told.code, told.err) == (0, "")
        assert "It is ready." in told.out
    assert json.loads(llmspell("fleet", "why", kernel, "--output", "json").out)["kernel_id"] == kernel


def test_one_that_never_was_is_an_error(llmspell: Commands) -> None:
    told = llmspell("fleet", "why", "00000000-0000-4000-8000-00000000ffff")

    assert told.code == 1
    assert "Traceback" not in told.err
