"""`POST /v1/tenants/{tenant}/execute` of a fleet that really runs: to the letter of the interface."""

import http.client
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.fleets import FleetHome
from support.homes import DEADLINE_S
from support.tenants import SPIN, Tenant, at_once, sse, wait_running

pytestmark = pytest.mark.integration

_MEMBERS = {
    "kernel_id": str,
    "session": str,
    "status": str,
    "execution_count": int,
    "stdout": str,
    "stderr": str,
    "result": (str, type(None)),
    "data": (dict, type(None)),
    "error": (dict, type(None)),
    "duration_s": float,
}

Make = Callable[..., Tenant]

# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "code", "expected"),
    [
        ("an expression", "1+1", {"status": "ok", "result": "2", "data": {"text/plain": "2"}}),
        ("a value", "return 1+1", {"status": "ok", "result": "2", "error": None}),
        ("several values", "return 1, 'a', nil", {"status": "ok", "result": "1\ta\tnil"}),
        ("no value", "x = 1", {"status": "ok", "result": None, "data": None, "error": None}),
        ("output", "print('a', 1) io.stderr:write('b')", {"stdout": "a\t1\n", "stderr": "b", "result": None}),
        ("text of any kind", "return '\\u{1F600}\\0\"'", {"result": '\U0001f600\0"'}),
        ("nothing", "", {"status": "ok", "result": None}),
        ("a display", "display{html='<b>'}", {"status": "ok", "stdout": ""}),
        ("an error after output", "print(1) error('no', 0)", {"status": "error", "stdout": "1\n", "result": None}),
        ("no Lua", "x =", {"status": "error"}),
    ],
)
def test_an_answer_has_every_member_of_the_interface(
    tenant: Tenant, case: str, code: str, expected: dict[str, object]
) -> None:
    view = tenant.run(code)

    assert {name: view[name] for name in expected} == expected, case
    further = {"displays"} if "display" in code else set()
    assert view.keys() == _MEMBERS.keys() | further
    for name, types in _MEMBERS.items():
        assert isinstance(view[name], types), name
    assert view["kernel_id"] == tenant.created["kernels"][0]["id"]
    assert 0 <= view["duration_s"] < 10


def test_an_error_has_a_name_a_message_and_a_traceback(tenant: Tenant) -> None:
    error = tenant.run("local function f() error('broken') end\nf()")["error"]

    assert error.keys() - {"code"} == {"name", "message", "traceback"}
    assert "broken" in error["message"]
    assert "In[1]:1" in error["message"]
    assert all(isinstance(line, str) for line in error["traceback"])


def test_displays_are_mime_bundles(tenant: Tenant) -> None:
    (bundle,) = tenant.run("display{html='<b>x</b>', text='x'}")["displays"]

    assert bundle == {"text/html": "<b>x</b>", "text/plain": "x"}


def test_reading_input_is_an_error_of_the_script_and_no_hang(tenant: Tenant) -> None:
    view = tenant.run("return io.read()", timeout_s=5)

    assert view["status"] == "error"
    assert "input" in view["error"]["message"]
    assert view["duration_s"] < 1


def test_an_interrupted_script_says_so(tenant: Tenant) -> None:
    with tenant.spinning() as spinning:
        pass
    outcome = spinning.outcome()

    assert outcome["http_status"] == 200
    assert outcome["outcome"]["status"] == "interrupted"


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_script_that_takes_too_long_is_stopped_and_keeps_its_state(tenant: Tenant) -> None:
    tenant.run("kept = 1")

    view = tenant.run(SPIN, timeout_s=0.2)

    assert view["status"] == "timeout"
    assert 0.1 < view["duration_s"] < 2  # of the 0.2 s, some went before it began
    assert "timeout_clipped" not in view
    assert tenant.value("return kept") == "1"


@pytest.mark.parametrize(
    ("case", "asked", "is_clipped"), [("more", 100, True), ("less", 0.1, False), ("nothing", None, False)]
)
def test_a_timeout_is_clipped_to_the_tenant_s_limit_which_is_said(
    make_tenant: Make, case: str, asked: float | None, is_clipped: bool
) -> None:
    tenant = make_tenant(limits={"execution_timeout_s": 0.3})

    view = tenant.run(SPIN, **({} if asked is None else {"timeout_s": asked}))

    assert view["status"] == "timeout", case
    assert view.get("timeout_clipped") is (True if is_clipped else None)
    assert view.get("timeout_s") == (0.3 if is_clipped else None)


def test_waiting_for_a_busy_kernel_counts_and_what_did_not_begin_never_does(tenant: Tenant) -> None:
    with tenant.spinning():
        view = tenant.run("too_late = 1", timeout_s=0.2)

    assert view["status"] == "timeout"
    assert tenant.value("return too_late") == "nil"


# --- sessions -----------------------------------------------------------------------------------------------------


def test_a_session_stays_with_its_kernel_and_its_state(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3)
    views = [tenant.run("n = (n or 0) + 1 return n", session="mine") for _ in range(6)]

    assert [view["result"] for view in views] == ["1", "2", "3", "4", "5", "6"]
    assert {view["session"] for view in views} == {"mine"}
    assert len({view["kernel_id"] for view in views}) == 1
    assert all("session_reset" not in view for view in views)


def test_who_names_no_session_is_told_one_to_come_back_with(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3)
    first = tenant.run("mark = 'here'")

    views = [tenant.run("return mark", session=first["session"]) for _ in range(4)]

    assert {view["result"] for view in views} == {"here"}
    assert {view["kernel_id"] for view in views} == {first["kernel_id"]}


def test_a_session_whose_kernel_died_is_told_once_that_its_state_is_gone(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2)
    first = tenant.run("mark = 'here'", session="mine")
    victim = tenant.kernel(first["kernel_id"])

    os.kill(victim["pid"], signal.SIGKILL)
    tenant.wait_restarted(victim["id"])
    after, later = (tenant.run("return mark", session="mine") for _ in range(2))

    assert (after["result"], after["kernel_id"], after["session_reset"]) == ("nil", victim["id"], True)
    assert "session_reset" not in later
    assert "session_reset" not in tenant.run("return 1", session="new")


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_has_the_output_in_order_and_the_result_at_the_end(tenant: Tenant) -> None:
    code = "print('a') display{html='<b>'} io.stderr:write('b') return 5"
    answer = tenant.execute(code, stream=True)

    assert answer.headers["Content-Type"] == "text/event-stream"
    pieces = sse(answer.body)
    assert [(name, data) for name, _, data in pieces[:-1]] == [
        ("output", {"name": "stdout", "text": "a\n"}),
        ("display", {"text/html": "<b>", "text/plain": "<html>"}),
        ("output", {"name": "stderr", "text": "b"}),
    ]
    name, _, result = pieces[-1]
    assert (name, result["status"], result["result"]) == ("result", "ok", "5")


class _Stream:
    """A streamed execution that is read as it comes."""

    def __init__(self, tenant: Tenant, code: str) -> None:
        address = urlsplit(tenant.fleet.url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=DEADLINE_S)
        headers = {"Authorization": f"Bearer {tenant.token}", "Content-Type": "application/json"}
        body = json.dumps({"code": code, "stream": True})
        self._connection.request("POST", f"{tenant.path}/execute", body, headers)
        self._answer = self._connection.getresponse()

    def next(self) -> tuple[str, int | None, Any]:
        block = b""
        while not block.endswith(b"\n\n"):
            line = self._answer.readline()
            assert line, "the stream has ended"
            block += line
        (event,) = sse(block)
        return event

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


@pytest.fixture
def stream() -> Any:
    opened: list[_Stream] = []

    def open_stream(tenant: Tenant, code: str) -> _Stream:
        opened.append(_Stream(tenant, code))
        return opened[-1]

    yield open_stream
    for one in opened:
        one.close()


def test_a_stream_tells_what_is_printed_while_the_script_runs(tenant: Tenant, stream: Any) -> None:
    running = stream(tenant, f"print('begun') {SPIN}")
    assert running.next() == ("output", None, {"name": "stdout", "text": "begun\n"})

    (kernel,) = tenant.kernels()
    assert kernel["phase"] == "BUSY"
    tenant.fleet.ask("POST", f"/v1/kernels/{kernel['id']}/interrupt")

    name, _, result = running.next()
    assert (name, result["status"]) == ("result", "interrupted")


def test_a_stream_whose_kernel_dies_ends_with_the_problem(tenant: Tenant, stream: Any) -> None:
    running = stream(tenant, f"print('begun') {SPIN}")
    running.next()
    (kernel,) = tenant.kernels()

    os.kill(kernel["pid"], signal.SIGKILL)

    name, _, problem = running.next()
    assert (name, problem["status"], problem["death"]["signal"]) == ("problem", 502, "SIGKILL")


def test_what_is_refused_before_it_begins_is_no_stream(fleet: FleetHome) -> None:
    answer = fleet.ask("POST", "/v1/tenants/nobody/execute", {"code": "", "stream": True})

    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


# --- later --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["body", "query"])
def test_an_execution_that_is_not_waited_for_has_its_outcome_later(tenant: Tenant, how: str) -> None:
    query, members = ("?wait=false", {}) if how == "query" else ("", {"wait": False})
    answer = tenant.fleet.ask("POST", f"{tenant.path}/execute{query}", {"code": "return 6*7", **members})
    assert answer.status == 202
    begun = answer.json
    assert answer.headers["Location"] == f"{tenant.path}/executions/{begun['id']}"
    assert begun["status"] == "pending"

    shown = tenant.outcome(answer.headers["Location"])

    assert shown.keys() == {"id", "status", "created_at", "finished_at", "http_status", "outcome"}
    assert (shown["id"], shown["status"], shown["http_status"]) == (begun["id"], "done", 200)
    assert shown["outcome"]["result"] == "42"
    assert shown["outcome"].keys() == _MEMBERS.keys()


def test_an_execution_whose_kernel_dies_has_failed_with_the_death(tenant: Tenant) -> None:
    with tenant.spinning() as spinning:
        os.kill(spinning.pid, signal.SIGKILL)
        shown = spinning.outcome()

    assert (shown["status"], shown["http_status"]) == ("failed", 502)
    assert shown["outcome"]["death"]["signal"] == "SIGKILL"


def test_another_tenant_s_execution_is_not_there(make_tenant: Make) -> None:
    one, other = make_tenant(), make_tenant()
    number = one.begin("return 1").rpartition("/")[2]

    assert one.fleet.ask("GET", f"{other.path}/executions/{number}").status == 404
    assert one.fleet.ask("GET", f"{one.path}/executions/{number}", token=other.token).status == 404
    assert one.fleet.ask("GET", f"{one.path}/executions/nothing").status == 404


# --- once ---------------------------------------------------------------------------------------------------------

_COUNT = "n = (n or 0) + 1 return n"


def test_a_key_has_one_outcome_however_often_it_is_asked(tenant: Tenant) -> None:
    key = {"Idempotency-Key": "key-1"}
    first, second = (tenant.execute(_COUNT, headers=key) for _ in range(2))

    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert tenant.value("return n") == "1"
    assert tenant.execute("return 2", headers=key).status == 409
    assert tenant.execute(_COUNT, headers=key, session="other").status == 409


def test_fifty_requests_with_one_key_at_one_moment_run_once(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=4)

    answers = at_once(50, lambda _: tenant.execute(_COUNT, headers={"Idempotency-Key": "race"}))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    homes = {view["session"] for view in (tenant.run("return 1") for _ in range(8))}
    assert len(homes) == 4
    counts = [tenant.value("return n or 0", session=home) for home in homes]
    assert Counter(counts) == {"0": 3, "1": 1}


def test_a_key_of_another_tenant_is_another_key(make_tenant: Make) -> None:
    key = {"Idempotency-Key": "shared"}
    one, other = make_tenant(), make_tenant()

    assert one.execute("return 'one'", headers=key).json["result"] == "one"
    assert other.execute("return 'other'", headers=key).json["result"] == "other"


def test_a_death_is_an_outcome_too_and_is_not_run_again(tenant: Tenant) -> None:
    key = {"Idempotency-Key": "fatal"}
    location = tenant.execute(SPIN, wait=False, headers=key).headers["Location"]
    (kernel,) = tenant.kernels()
    wait_running(kernel["pid"])
    os.kill(kernel["pid"], signal.SIGKILL)
    assert tenant.outcome(location)["http_status"] == 502

    again = tenant.execute(SPIN, headers=key)

    assert (again.status, again.headers["Idempotency-Replayed"]) == (502, "true")
    assert again.json["death"]["pid"] == kernel["pid"]


def test_a_stream_has_no_key_and_is_not_fetched_later(tenant: Tenant) -> None:
    assert tenant.execute("", stream=True, headers={"Idempotency-Key": "k"}).status == 400
    assert tenant.execute("", stream=True, wait=False).status == 400


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_hundred_requests_cannot_race_past_the_limit_of_executions(make_tenant: Make) -> None:
    tenant = make_tenant(limits={"max_executions": 5})
    with tenant.spinning():
        answers = at_once(100, lambda _: tenant.execute("n = (n or 0) + 1 return n", wait=False))
        refused = [answer for answer in answers if answer.status == 429]

        assert len(refused) == 96
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert all(answer.headers["Content-Type"] == "application/problem+json" for answer in refused)
        assert "max_executions is 5" in refused[0].json["detail"]
        admitted = [answer.headers["Location"] for answer in answers if answer.status == 202]
    results = sorted(tenant.outcome(location)["outcome"]["result"] for location in admitted)

    assert results == ["1", "2", "3", "4"]
    # All places were given back, and no more than they were.
    with tenant.spinning():
        answers = at_once(20, lambda _: tenant.execute("return 1", wait=False))
        assert Counter(answer.status for answer in answers) == {202: 4, 429: 16}


def test_a_tenant_that_begins_too_many_in_a_second_is_told_when_to_come_back(make_tenant: Make) -> None:
    tenant = make_tenant(limits={"executions_per_s": 0.1})
    assert tenant.execute("return 1").status == 200

    refused = tenant.execute("return 1")

    assert refused.status == 429
    assert 8 <= int(refused.headers["Retry-After"]) <= 10
    assert "executions_per_s" in refused.json["detail"]


def test_output_is_bounded(make_tenant: Make) -> None:
    tenant = make_tenant(limits={"output_bytes": 1000})
    view = tenant.run("for i = 1, 1000 do print('0123456789') end")

    assert len(view["stdout"]) < 1500
    assert view["status"] != "ok" or "output" in view["stdout"] + view["stderr"]
