"""Every message type of the protocol, its schema, its parent, and the statuses around it."""

import itertools

import pytest

from support.kernels import KernelProcess
from support.peers import Answer, Client, bracketed

pytestmark = pytest.mark.integration


def test_kernel_info_says_who_answers(client: Client) -> None:
    answer = client.ask("kernel_info_request")

    assert bracketed(answer)
    assert answer.content["protocol_version"] == "5.4"
    assert answer.content["implementation"] == "llmspell"
    assert answer.content["language_info"]["name"] == "lua"
    assert answer.content["language_info"]["file_extension"] == ".lua"


def test_kernel_info_is_answered_on_control_too(client: Client) -> None:
    assert bracketed(client.ask("kernel_info_request", channel="control"))


def test_every_subscriber_is_welcomed(kernel: KernelProcess) -> None:
    topics = [b"", b"", b"kernel", b"kernel"]
    for topic in topics:
        with Client(kernel.connection, topic=topic) as client:
            (welcome,) = (m for m in client.unasked if m["msg_type"] == "iopub_welcome")
            assert welcome["content"] == {"subscription": topic.decode()}
            assert welcome["parent_header"] == {}


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("1+1", "2"),
        ("return 1+1", "2"),
        ("return 1, 'two', nil, {3}", "1\ttwo\tnil\t{3}"),
        ("x = 5", None),
        ("", None),
        ("-- only a remark", None),
    ],
)
def test_a_result_is_published_once_and_not_in_the_reply(code: str, result: str | None, client: Client) -> None:
    answer = client.execute(code)

    assert answer.status == "ok"
    assert answer.result == result
    assert bracketed(answer)
    assert answer.kinds[1] == "execute_input"
    assert answer.of("execute_input") == [{"code": code, "execution_count": 1}]


def test_output_comes_before_the_result_in_the_order_of_writing(client: Client) -> None:
    answer = client.execute("print('a') io.stderr:write('b') print('c') return 'd'")

    streams = [(content["name"], content["text"]) for content in answer.of("stream")]
    assert streams == [("stdout", "a\n"), ("stderr", "b"), ("stdout", "c\n")]
    assert answer.kinds[-2:] == ["execute_result", "status"]
    assert bracketed(answer)


def test_an_error_is_published_once_and_is_in_the_reply(client: Client) -> None:
    answer = client.execute("local function f()\n  error('broken')\nend\nf()")

    assert answer.status == "error"
    assert bracketed(answer)
    assert answer.error == {name: answer.content[name] for name in ("ename", "evalue", "traceback")}
    assert "broken" in answer.error["evalue"]
    assert any("In[1]:2" in line for line in answer.error["traceback"])


def test_a_syntax_error_names_the_line(client: Client) -> None:
    answer = client.execute("x = 1\ny = = 2")

    assert answer.error["ename"] == "SyntaxError"
    assert "In[1]:2" in answer.error["evalue"]


def test_display_data_can_be_updated_and_cleared(client: Client) -> None:
    answer = client.execute(
        "display({1}, {id = 'one'}) display{html = '<b>x</b>'} update_display('one', 2) clear_output() clear_output(true)"
    )

    first, second = answer.of("display_data")
    assert first["transient"] == {"display_id": "one"}
    assert second["data"]["text/html"] == "<b>x</b>"
    (update,) = answer.of("update_display_data")
    assert update["transient"] == {"display_id": "one"}
    assert update["data"]["text/plain"] == "2"
    assert answer.of("clear_output") == [{"wait": False}, {"wait": True}]
    assert bracketed(answer)


# --- execute_request's options ------------------------------------------------------------------------------------


def test_a_silent_cell_runs_unheard_and_uncounted(client: Client) -> None:
    answer = client.execute("x = 7 print('unheard') display('unseen') return x", silent=True)

    assert answer.kinds == ["status", "status"]
    assert answer.content["execution_count"] == 0
    counted = client.execute("x")
    assert counted.result == "7"
    assert counted.content["execution_count"] == 1


def test_a_silent_cells_error_is_in_its_reply_only(client: Client) -> None:
    answer = client.execute("error('quietly')", silent=True)

    assert answer.status == "error"
    assert "quietly" in answer.content["evalue"]
    assert answer.kinds == ["status", "status"]


def test_a_cell_that_is_not_stored_is_heard_and_not_counted(client: Client) -> None:
    client.execute("'first'")
    answer = client.execute("'unstored'", store_history=False)
    last = client.execute("'last'")

    assert answer.result == "unstored"
    assert [a.content["execution_count"] for a in (answer, last)] == [1, 2]
    history = client.ask("history_request", {"hist_access_type": "tail", "n": 10, "output": False, "raw": True})
    assert history.content["history"] == [[1, 1, "'first'"], [1, 2, "'last'"]]


def test_user_expressions_answer_or_say_why_not(client: Client) -> None:
    expressions = {"sum": "x + 1", "broken": "error('no')", "wrong": "x +", "two": "1, 2", "nothing": "", "ünï": "'é'"}

    answer = client.execute("x = 41", user_expressions=expressions)

    found = answer.content["user_expressions"]
    assert found.keys() == expressions.keys()
    assert found["sum"] == {"status": "ok", "data": {"text/plain": "42"}, "metadata": {}}
    assert found["ünï"]["data"]["text/plain"] == "é"
    for name in ("broken", "wrong"):
        assert found[name]["status"] == "error"
        assert found[name].keys() >= {"ename", "evalue", "traceback"}
    assert "no" in found["broken"]["evalue"]
    assert answer.kinds == ["status", "execute_input", "status"]


def test_user_expressions_of_a_failed_cell_are_not_evaluated(client: Client) -> None:
    answer = client.execute("error('no')", user_expressions={"x": "print('evaluated')"})

    assert answer.text() == ""


def test_a_user_expression_can_be_interrupted(client: Client) -> None:
    request = client.send_execute(
        "print('running')", user_expressions={"endless": "(function() while true do end end)()", "after": "1"}
    )
    answer = client.answers[request]
    client.until(answer.text, "the cell to run")
    client.ask("interrupt_request", channel="control")

    client.finish(request)

    assert answer.content["user_expressions"]["endless"]["status"] == "error"


# --- what needs no execution --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [("x = 1", "complete"), ("1 + 1", "complete"), ("for i = 1, 2 do", "incomplete"), ("x = = 1", "invalid")],
)
def test_is_complete(code: str, status: str, client: Client) -> None:
    answer = client.ask("is_complete_request", {"code": code})

    assert answer.content["status"] == status
    assert ("indent" in answer.content) == (status == "incomplete")
    assert bracketed(answer)


def complete(client: Client, code: str) -> list[str]:
    answer = client.ask("complete_request", {"code": code, "cursor_pos": len(code)})
    assert bracketed(answer)
    content = answer.content
    assert 0 <= content["cursor_start"] <= content["cursor_end"] <= len(code)
    matches: list[str] = content["matches"]
    return matches


@pytest.mark.parametrize(
    ("case", "code", "expected"),
    [
        ("a global of the script", "return my_glo", "my_global"),
        ("a field", "return my_table.fie", "field_one"),
        ("a method", "my_table:meth", "method_one"),
        ("a keyword", "whi", "while"),
        ("a local of the cell", "local inner_name = 1\nreturn inner", "inner_name"),
        ("the standard library", "string.form", "format"),
    ],
)
def test_complete(case: str, code: str, expected: str, client: Client) -> None:
    client.execute("my_global = 1 my_table = { field_one = 1, method_one = function(self) end }")

    assert expected in complete(client, code)


def test_inspect_shows_values_and_where_functions_are(client: Client) -> None:
    client.execute("answer = 42\n-- Adds one.\nfunction add(x) return x + 1 end")

    for code, expected in [("answer", "42"), ("add", "Adds one."), ("string.format", "string.format")]:
        answer = client.ask("inspect_request", {"code": code, "cursor_pos": len(code), "detail_level": 0})
        assert answer.content["found"]
        assert expected in answer.content["data"]["text/plain"]
        assert bracketed(answer)


def test_inspect_of_nothing_finds_nothing(client: Client) -> None:
    answer = client.ask("inspect_request", {"code": "no_such_name", "cursor_pos": 5, "detail_level": 1})

    assert (answer.content["found"], answer.content["data"]) == (False, {})


CELLS = ("a = 1", "b", "c = 3", "a = 1")


@pytest.mark.parametrize(
    ("case", "asked", "found"),
    [
        ("the tail", {"hist_access_type": "tail", "n": 2}, [3, 4]),
        ("more than there is", {"hist_access_type": "tail", "n": 99}, [1, 2, 3, 4]),
        ("a range", {"hist_access_type": "range", "session": 0, "start": 2, "stop": 4}, [2, 3]),
        ("another session", {"hist_access_type": "range", "session": -1, "start": 1, "stop": 9}, []),
        ("a pattern", {"hist_access_type": "search", "pattern": "? = *"}, [1, 3, 4]),
        ("a pattern, each once", {"hist_access_type": "search", "pattern": "? = *", "unique": True}, [3, 4]),
        ("the last that match", {"hist_access_type": "search", "pattern": "a*", "n": 1}, [4]),
    ],
)
def test_history(case: str, asked: dict[str, object], found: list[int], client: Client) -> None:
    for code in CELLS:
        client.execute(code)

    answer = client.ask("history_request", {"output": False, "raw": True, **asked})

    assert bracketed(answer)
    assert answer.content["history"] == [[1, count, CELLS[count - 1]] for count in found]


def test_history_with_outputs(client: Client) -> None:
    client.execute("6 * 7")
    client.execute("x = 1")

    answer = client.ask("history_request", {"hist_access_type": "tail", "n": 2, "output": True, "raw": False})

    assert answer.content["history"] == [[1, 1, ["6 * 7", "42"]], [1, 2, ["x = 1", None]]]


# --- comms --------------------------------------------------------------------------------------------------------


def test_no_comms_are_open(client: Client) -> None:
    answer = client.ask("comm_info_request", {"target_name": "jupyter.widget"})

    assert answer.content["comms"] == {}
    assert bracketed(answer)


def test_a_comm_to_an_unknown_target_is_closed(client: Client) -> None:
    request = client.send("shell", "comm_open", {"comm_id": "c1", "target_name": "jupyter.widget", "data": {}})
    answer = client.answers[request]
    client.until(lambda: answer.states == ["busy", "idle"], "the end of comm_open")

    assert answer.kinds == ["status", "comm_close", "status"]
    assert answer.of("comm_close") == [{"comm_id": "c1", "data": {}}]


@pytest.mark.parametrize("kind", ["comm_msg", "comm_close"])
def test_what_is_said_to_a_comm_that_is_closed_is_heard_by_nobody(kind: str, client: Client) -> None:
    request = client.send("shell", kind, {"comm_id": "c1", "data": {}})
    answer = client.answers[request]
    client.until(lambda: answer.states == ["busy", "idle"], "the end of the message")

    assert answer.kinds == ["status", "status"]
    assert client.kernel_info()


# --- pipelined ----------------------------------------------------------------------------------------------------


def test_everything_has_the_right_parent_whatever_several_clients_pipeline(kernel: KernelProcess) -> None:
    clients = [Client(kernel.connection) for _ in range(3)]
    try:
        for client in clients:
            client.__enter__()
        requests: list[list[tuple[str, str]]] = [[] for _ in clients]
        for number, (mine, client) in itertools.product(range(60), enumerate(clients)):
            name = f"{mine}-{number}"
            code = f"print('{name}') io.stderr:write('{name}') return '{name}'"
            requests[mine].append((name, client.send_execute(code)))
            if number % 10 == 0:
                client.send("shell", "kernel_info_request")
                client.send("shell", "complete_request", {"code": "pri", "cursor_pos": 3})
                client.send("control", "kernel_info_request")
        for mine, client in enumerate(clients):
            for name, request in requests[mine]:
                answer = client.finish(request)
                assert (answer.text(), answer.text("stderr"), answer.result) == (f"{name}\n", name, name)
            for answer in client.answers.values():
                client.finish(answer.request)
                assert bracketed(answer)
            executed = [request for request in client.order if request in dict(map(reversed, requests[mine]))]
            assert executed == [request for _, request in requests[mine]]
        counts = [
            client.answers[request].content["execution_count"]
            for mine, client in enumerate(clients)
            for _, request in requests[mine]
        ]
        assert sorted(counts) == list(range(1, 181))
    finally:
        for client in clients:
            client.close()


def test_a_client_hears_what_others_do_with_their_parents(client: Client, second_client: Client) -> None:
    answer = client.execute("print('heard')")

    second_client.until(lambda: len(_about(second_client, answer)) == len(answer.published), "what the other did")
    assert [m["msg_type"] for m in _about(second_client, answer)] == answer.kinds


def _about(client: Client, answer: Answer) -> list[dict[str, object]]:
    return [m for m in client.unasked if m["parent_header"].get("msg_id") == answer.request]
