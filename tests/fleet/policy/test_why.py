"""What is told of a kernel: what it is, why, and what comes next."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.ids import WARM, KernelId, TenantId
from llmspell_fleet.model.kernel import Condition, Death, Ending, Kernel, KernelSpec, Phase, RunningExecution
from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.policy.telling import how_ended
from llmspell_fleet.policy.why import Situation, explain, explain_gone

P = Phase
NOW = 1000.0
POLICY = RestartPolicy()
ID = KernelId("9589393a-f055-475a-b70f-a04622e3bd7e")


def spec(**members: Any) -> KernelSpec:
    return KernelSpec(**{"id": ID, "tenant": TenantId("acme"), **members})


def kernel(phase: Phase, **members: Any) -> Kernel:
    base = {"spec": spec(), "phase": phase, "incarnation": 1, "pid": 77, "spawned_at": NOW - 60}
    return Kernel(**{**base, **members})


def situation(**members: Any) -> Situation:
    return Situation(**{"now": NOW, "policy": POLICY, "tenant": TenantSpec(id=TenantId("acme")), **members})


def death(**members: Any) -> Death:
    base = {"kernel_id": ID, "tenant": TenantId("acme"), "incarnation": 1, "pid": 7, "at": "2026-01-01T00:00:00Z"}
    return Death(**{**base, "cause": "signal", "signal": "SIGKILL", **members})


TIMEOUT = spec(idle_timeout_s=600.0)
RUNNING = RunningExecution(id="e5", sha256="c473eb52fc69fb0c07e5", running_s=0.5)
SCALED = TenantSpec(id=TenantId("acme"), autoscale=Autoscale(max=4))


@pytest.mark.parametrize(
    ("case", "of", "seen", "summary", "coming"),
    [
        ("wanted", kernel(P.PENDING), {}, "not started yet", []),
        (
            "starting",
            kernel(P.STARTING),
            {"timer_in_s": 4.0},
            "process 77 was made, and has not answered",
            [("killed", 4.0, "start_deadline = 10s")],
        ),
        ("asked for", kernel(P.STARTING, pid=None), {}, "a process for it is being made", [("killed", None, "start")]),
        ("ready", kernel(P.READY), {}, "ready (process 77, up 1m)", [("never culled", None, "idle_timeout_s = 0")]),
        ("busy", kernel(P.READY), {"running": 2}, "2 executions to do", []),
        (
            "idle",
            kernel(P.READY, spec=TIMEOUT),
            {"cull_in_s": 42.0},
            "nothing of the fleet's runs",
            [("culled", 42.0, "idle_timeout_s = 600")],
        ),
        (
            "kept",
            kernel(P.READY, spec=TIMEOUT),
            {"cull_why": "a client is connected, and cull_connected is false"},
            "ready",
            [("culled", None, "idle_timeout_s")],
        ),
        ("lent", kernel(P.READY), {"leases": (30.0, 9.0)}, "ready", [("given back", 9.0, "lease_ttl")]),
        (
            "one too many",
            kernel(P.READY),
            {"tenant": SCALED, "shrinks_in_s": 12.0},
            "ready",
            [("stopped", 12.0, "down_after_s = 60")],
        ),
        ("warm", kernel(P.READY, spec=spec(tenant=WARM)), {"tenant": None}, "nobody's", [("claimed", None, "")]),
        (
            "draining",
            kernel(P.DRAINING, ending=Ending("max_age", restarts=True)),
            {"timer_in_s": 20.0, "running": 1},
            "takes no new work: it is to end (max_age), and 1 execution may finish",
            [("interrupted", 20.0, "drain_deadline = 30s"), ("started again", None, "")],
        ),
        (
            "stopping",
            kernel(P.STOPPING, is_wanted=False, ending=Ending("stopped", restarts=False, step="terminate")),
            {"timer_in_s": 3.0},
            "told to end (stopped)",
            [("killed", 3.0, "stop_deadline"), ("gone", None, "")],
        ),
        (
            "asked to shut down",
            kernel(P.STOPPING, ending=Ending("drained", restarts=False, step="shutdown", rung="drain")),
            {"timer_in_s": 3.0},
            "told to end (drained)",
            [("terminated", 3.0, "[fleet] shutdown_deadline"), ("down until a person restarts it", None, "")],
        ),
        (
            "ageing",
            kernel(P.READY, spec=spec(max_age_s=3600.0)),
            {"timer_in_s": 30.0},
            "ready",
            [("replaced by a new process", 30.0, "max_age_s = 3600")],
        ),
        (
            "not to be repaired",
            kernel(P.READY, spec=spec(restart="never")),
            {},
            "ready",
            [("left down", None, "never")],
        ),
        ("silent", kernel(P.READY, is_silent=True), {}, "does not answer at the moment", []),
        ("waiting", kernel(P.PENDING, spec=spec(depends_on={"db": "ready"})), {}, "so far: db (ready)", []),
        (
            "culled",
            kernel(P.STOPPED, last_death=death(cause="culled")),
            {},
            "culled: nobody used it for its idle_timeout_s",
            [("started", None, "")],
        ),
        (
            "culled at work",
            kernel(
                P.STOPPED,
                last_death=death(cause="culled", detail="its execution began longer ago than its idle_timeout_s, 9"),
            ),
            {},
            "was culled: its execution began longer ago than its idle_timeout_s, 9. The next",
            [("started", None, "")],
        ),
        (
            "drained",
            kernel(P.STOPPED, last_death=death(cause="drained", rung="drain")),
            {},
            "it was drained. It stays down until a person restarts it.",
            [("started again", None, "")],
        ),
        (
            "ended by TERM",
            kernel(P.STOPPED, spec=spec(restart="never"), last_death=death(cause="stopped", rung="terminate")),
            {},
            "it was stopped. It stays down until a person restarts it.",
            [("started again", None, "")],
        ),
        (
            "drained before it began",
            kernel(P.STOPPED),
            {},
            "until a person restarts it.",
            [("started again", None, "")],
        ),
        ("stopped", kernel(P.STOPPED, is_wanted=False), {}, "not wanted any more", []),
        (
            "backoff",
            kernel(P.BACKOFF, crashes=(NOW - 5, NOW - 1), last_death=death()),
            {"timer_in_s": 0.1},
            "crashed 2 times within 1m",
            [("started again", 0.1, "first_delay = 100ms")],
        ),
        (
            "failed",
            kernel(P.FAILED, crashes=(NOW - 1,) * 6, last_death=death()),
            {},
            "until a person restarts it",
            [("started again", None, "")],
        ),
        ("the end", kernel(P.READY), {"is_closing": True}, "ready", [("ended", None, "")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_phase_is_told_with_what_comes_next(
    case: str, of: Kernel, seen: dict[str, Any], summary: str, coming: list[tuple[str, float | None, str]]
) -> None:
    told = explain(of, situation(**seen))

    assert summary in told.summary, case
    for what, in_s, setting in coming:
        found = next((one for one in told.next if (one.what, one.in_s) == (what, in_s)), None)
        assert found is not None, told.next
        assert setting in found.setting


def test_a_crash_is_told_with_what_ran_and_what_another_would_lead_to() -> None:
    again = kernel(
        P.READY, incarnation=3, crashes=(NOW - 2, NOW - 1), last_death=death(uptime_s=6.5, executions=(RUNNING,))
    )

    told = explain(again, situation())

    assert told.because == (
        "This is incarnation 3: it was started again 2 times.",
        "Incarnation 1 was killed by SIGKILL after 6.5s, at 2026-01-01T00:00:00Z.",
        "It ran e5 then, code with the hash c473eb52fc69fb0c…, for 500ms.",
    )
    assert told.next[-1].detail == "if it crashes: after 200ms"


@pytest.mark.parametrize(
    ("crashes", "after"),
    [((), "at once"), ((NOW - 1,), "after 100ms"), ((NOW - 1,) * 5, "not any more"), ((1.0,), "at once")],
)
def test_what_a_crash_would_lead_to_is_what_the_policy_says(crashes: tuple[float, ...], after: str) -> None:
    told = explain(kernel(P.READY, crashes=crashes), situation())

    assert told.next[-1].detail == f"if it crashes: {after}"


def test_who_stays_down_is_told_why() -> None:
    too_often = explain(kernel(P.FAILED, crashes=(NOW - 1,) * 6, last_death=death()), situation())
    in_vain = explain(
        kernel(
            P.FAILED, crashes=(NOW - 1,), last_death=death(cause="spawn_failed", signal=None, detail="no such level")
        ),
        situation(),
    )

    assert "crashed 6 times within 60 s" in too_often.because[0]
    assert "no such level" in in_vain.because[0]


@pytest.mark.parametrize(
    ("case", "condition", "other", "expected"),
    [
        ("on its way", "ready", kernel(P.STARTING), "it is STARTING."),
        (
            "failed",
            "ready",
            kernel(P.FAILED),
            "it is FAILED, and does not become ready by itself: `llmspell fleet rest",
        ),
        ("drained", "ready", kernel(P.STOPPED), "it is STOPPED, and does not become ready by itself"),
        ("at work", "exited_ok", kernel(P.READY), "it is READY."),
        (
            "ended badly",
            "exited_ok",
            kernel(P.STOPPED, last_death=death(cause="fault")),
            "it is STOPPED (its last process had a fault of its own), and does not become exited_ok by itself",
        ),
        ("gone", "ready", None, "it is not there, and does not become ready by itself."),
    ],
)
def test_who_waits_is_told_for_whom_and_whether_that_one_comes(
    case: str, condition: Condition, other: Kernel | None, expected: str
) -> None:
    needs: dict[str, Condition] = {"cache": "ready", "db": condition}
    named = {"cache": kernel(P.READY), **({} if other is None else {"db": other})}

    told = explain(kernel(P.PENDING, spec=spec(depends_on=needs)), situation(named=named))

    assert told.summary.endswith(f"so far: db ({condition}).")
    assert f"Kernel db has to be {condition}; {expected}" in told.because[0], case
    assert len(told.because) == 1
    assert [(one.what, one.setting) for one in told.next] == [("started", "depends_on")]


def test_a_kernel_that_left_is_told_by_its_last_certificate() -> None:
    told = explain_gone(death(cause="drained", signal=None, rung="drain"))

    assert told.summary == "It has left for good: it was drained."
    assert "(drain)" in told.because[0]
    assert explain_gone(None).summary.endswith("never had a process.")


@given(
    st.builds(
        kernel,
        st.sampled_from(list(Phase)),
        is_wanted=st.booleans(),
        pid=st.none() | st.just(7),
        ending=st.none() | st.just(Ending("restarted", restarts=True)),
        last_death=st.none() | st.builds(death, cause=st.sampled_from(["culled", "fault", "exited", "unknown"])),
        crashes=st.lists(st.floats(900, NOW), max_size=7).map(tuple),
    ),
    st.builds(
        situation,
        running=st.integers(0, 3),
        timer_in_s=st.none() | st.floats(0, 100),
        cull_in_s=st.none() | st.floats(-1, 100),
        leases=st.lists(st.floats(-1, 100), max_size=3).map(tuple),
    ),
)
def test_something_is_told_of_every_kernel_and_what_is_timed_comes_first(of: Kernel, seen: Situation) -> None:
    told = explain(of, seen)

    assert told.summary.endswith(".")
    assert all(sentence.endswith((".", "…")) for sentence in told.because)
    times = [one.in_s for one in told.next]
    timed = [time for time in times if time is not None]
    assert times[: len(timed)] == sorted(timed)
    assert all(time >= 0 for time in timed)
    msgspec.json.encode(told)


def test_every_cause_has_words() -> None:
    causes = msgspec.inspect.type_info(Death)
    (field,) = (field for field in causes.fields if field.name == "cause")  # type: ignore[union-attr]
    for cause in field.type.values:  # type: ignore[union-attr]
        assert how_ended(death(cause=cause))
