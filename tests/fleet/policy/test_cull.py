"""Which unused kernels end, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.policy.cull import Culled, CullRules, Kept, Use, judge, notice_s

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("case", "rules", "use", "expected"),
    [
        ("no timeout", CullRules(0), Use(idle_s=1e9), "never"),
        ("used lately", CullRules(HOUR_S), Use(idle_s=60), "kept: it was used 60 s ago"),
        ("unused", CullRules(HOUR_S), Use(idle_s=HOUR_S), "culled"),
        ("unused for longer", CullRules(HOUR_S), Use(idle_s=9 * HOUR_S), "culled"),
        ("busy", CullRules(HOUR_S), Use(idle_s=9 * HOUR_S, is_busy=True), "kept: it runs something"),
        ("busy, which counts not", CullRules(HOUR_S, cull_busy=True), Use(idle_s=HOUR_S, is_busy=True), "forced"),
        ("busy for a moment", CullRules(HOUR_S, cull_busy=True), Use(idle_s=1, is_busy=True), "kept: it was used 1 s"),
        ("a client", CullRules(HOUR_S), Use(idle_s=HOUR_S, clients=1), "kept: a client is connected"),
        ("clients", CullRules(HOUR_S), Use(idle_s=HOUR_S, clients=2), "kept: 2 clients are connected"),
        ("lent", CullRules(HOUR_S), Use(idle_s=HOUR_S, leases=1), "kept: it is lent"),
        ("both, which count not", CullRules(HOUR_S, False, True), Use(idle_s=HOUR_S, clients=1, leases=1), "culled"),
        ("lent and used", CullRules(HOUR_S, False, True), Use(idle_s=5, leases=1), "kept: it was used 5 s ago"),
    ],
)
def test_a_kernel_is_kept_by_what_its_tenant_says(case: str, rules: CullRules, use: Use, expected: str) -> None:
    judged = judge(rules, use)

    if isinstance(judged, Culled):
        assert expected == ("forced" if judged.is_forced else "culled"), case
    elif expected == "never":
        assert judged.look_in_s == float("inf")
    else:
        assert f"kept: {judged.why}".startswith(expected), case
        assert judged.look_in_s > 0


RULES = st.builds(CullRules, st.floats(0.1, 1e7), st.booleans(), st.booleans())
USES = st.builds(
    Use, idle_s=st.floats(0, 1e8), is_busy=st.booleans(), clients=st.integers(0, 3), leases=st.integers(0, 3)
)


@given(RULES, USES)
def test_clients_are_told_before_the_end_and_the_end_is_not_before_its_time(rules: CullRules, use: Use) -> None:
    judged = judge(rules, use)

    if isinstance(judged, Culled):
        assert judged.in_s == notice_s(rules) > 0
        assert use.idle_s + judged.in_s >= rules.idle_timeout_s * (1 - 1e-9)
    else:
        assert judged.ends_in_s is None or judged.ends_in_s <= rules.idle_timeout_s


@given(RULES, USES)
def test_who_looks_when_told_to_gives_notice_in_time(rules: CullRules, use: Use) -> None:
    judged = judge(rules, use)
    if not isinstance(judged, Kept) or judged.ends_in_s is None:
        return

    later = judge(
        rules, Use(idle_s=use.idle_s + judged.look_in_s, is_busy=use.is_busy, clients=use.clients, leases=use.leases)
    )

    assert isinstance(later, Culled) or later.look_in_s < 0.06
