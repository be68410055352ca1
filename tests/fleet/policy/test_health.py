"""How the fleet is."""

import pytest

from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.views import CheckView
from llmspell_fleet.policy.health import Status, Vitals, examine, judge

WELL = CheckView(status="healthy")


def vitals(**changes: object) -> Vitals:
    parts = {"zygote_fault": "", "store_fault": "", "phases": {Phase.READY: 3, Phase.STOPPED: 1}} | changes
    return Vitals(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "changes", "check", "status", "detail"),
    [
        ("no zygote", {"zygote_fault": "it exited with code 1"}, "zygote", "unhealthy", "it exited with code 1"),
        ("a slow zygote", {"zygote_delay": "starts wait"}, "zygote", "degraded", "starts wait"),
        ("none at all", {"zygote_fault": "gone", "zygote_delay": "starts wait"}, "zygote", "unhealthy", "gone"),
        ("no store", {"store_fault": "disk full"}, "store", "unhealthy", "disk full"),
        ("a failed kernel", {"phases": {Phase.FAILED: 1}}, "kernels", "degraded", "1 FAILED"),
        ("kernels in backoff", {"phases": {Phase.BACKOFF: 2}}, "kernels", "degraded", "2 BACKOFF"),
        ("both", {"phases": {Phase.BACKOFF: 20, Phase.FAILED: 10}}, "kernels", "degraded", "10 FAILED; 20 BACKOFF"),
        ("limits", {"unenforced_limits": ("cpu_percent: no cgroup", "files: …")}, "limits", "degraded", "cpu_percent: no cgroup; files: …"),
        ("isolation", {"weaker_isolation": ("acme: strict",)}, "isolation", "degraded", "acme: strict"),
        ("discovery", {"unreachable": {"discovery": "refused"}}, "discovery", "degraded", "refused"),
        ("alerts", {"unreachable": {"alerts": "no channel"}}, "alerts", "degraded", "no channel"),
    ],
)  # fmt: skip
def test_what_is_amiss_is_found_by_its_check_alone(
    case: str, changes: dict[str, object], check: str, status: Status, detail: str
) -> None:
    checks = examine(vitals(**changes))

    assert checks.pop(check) == CheckView(status=status, detail=detail), case
    assert set(checks.values()) == {WELL}, case


def test_a_fleet_without_faults_is_healthy() -> None:
    checks = examine(vitals(unreachable={"discovery": ""}))

    assert checks == dict.fromkeys(["zygote", "store", "kernels", "limits", "isolation", "discovery"], WELL)
    assert judge(checks) == "healthy"


@pytest.mark.parametrize(
    ("case", "found", "status"),
    [
        ("nothing checked", [], "healthy"),
        ("all is well", ["healthy", "healthy"], "healthy"),
        ("one is not quite", ["healthy", "degraded"], "degraded"),
        ("one is not", ["unhealthy", "healthy", "degraded"], "unhealthy"),
    ],
)
def test_a_fleet_is_as_its_worst_check(case: str, found: list[Status], status: Status) -> None:
    checks = {str(number): CheckView(status=one) for number, one in enumerate(found)}

    assert judge(checks) == status, case
