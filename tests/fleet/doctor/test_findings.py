"""What an examination comes to."""

import pytest

from llmspell_fleet.doctor.findings import Finding, Result, is_sound


def finding(result: Result, *, is_promised: bool = True) -> Finding:
    return Finding(
        kind="limit", name="memory_bytes", enforced_by="lua", is_promised=is_promised, result=result, detail=""
    )


@pytest.mark.parametrize(
    ("case", "findings", "expected"),
    [
        ("all held", [finding("held"), finding("held")], True),
        ("one open", [finding("held"), finding("open")], False),
        ("one that nobody promised is open", [finding("held"), finding("open", is_promised=False)], True),
        ("one was not tried", [finding("held"), finding("skipped")], False),
        ("none was tried", [finding("skipped"), finding("skipped")], False),
        ("nothing was promised", [finding("held", is_promised=False)], False),
        ("no probe at all", [], False),
    ],
)
def test_only_what_was_seen_to_hold_holds(case: str, findings: list[Finding], expected: bool) -> None:
    assert is_sound(findings) == expected, case
