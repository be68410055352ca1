"""`io.read` asks the front end that the cell came from, and nobody else."""

import pytest

from support.peers import Client, bracketed

pytestmark = pytest.mark.integration


def ask(client: Client, code: str) -> str:
    """Send a cell that reads, and wait until it asks; returns the request."""
    asked = len(client.asked)
    request = client.send_execute(code, allow_stdin=True)
    client.until(lambda: len(client.asked) > asked, "the question")
    question = client.asked[-1]
    assert question["msg_type"] == "input_request"
    assert question["parent_header"]["msg_id"] == request
    assert question["content"] == {"prompt": "", "password": False}
    return request


def reply(client: Client, value: str, **header: str) -> None:
    client.send("stdin", "input_reply", {"value": value}, **header)


def test_a_line_is_asked_for_and_read(client: Client) -> None:
    request = ask(client, "io.write('name? ') local name = io.read() return 'hello ' .. name")
    reply(client, "Lúa 🌙")
    answer = client.finish(request)

    assert answer.text() == "name? "
    assert answer.result == "hello Lúa 🌙"
    assert bracketed(answer)


def test_output_before_a_question_is_shown_before_it_is_asked(client: Client) -> None:
    request = ask(client, "io.write('name? ') io.read()")
    answer = client.answers[request]
    client.until(lambda: answer.text() == "name? ", "the prompt")
    reply(client, "")

    client.finish(request)


def test_several_lines_are_asked_for_one_by_one(client: Client) -> None:
    request = ask(client, "local t = {} for i = 1, 3 do t[i] = io.read() end return t[1] + t[2] + t[3]")
    for number in (1, 2, 3):
        client.until(lambda asked=number: len(client.asked) == asked, "the next question")
        reply(client, str(number))

    assert client.finish(request).result == "6"


def test_a_front_end_that_answers_no_questions_is_not_asked(client: Client) -> None:
    answer = client.execute("io.read()", allow_stdin=False)

    assert "does not answer requests for input" in answer.error["evalue"]
    assert client.asked == []


def test_only_the_session_that_is_asked_can_answer(client: Client, second_client: Client) -> None:
    request = ask(client, "return io.read()")
    reply(second_client, "from another session")
    reply(client, "from this client in another's name", session=second_client.session.session)
    second_client.kernel_info()
    reply(client, "from whom was asked")

    assert client.finish(request).result == "from whom was asked"
    assert second_client.asked == []


def test_an_answer_that_nobody_asked_for_is_not_kept(client: Client) -> None:
    reply(client, "too early")
    client.kernel_info()
    request = ask(client, "return io.read()")
    reply(client, "in time")
    reply(client, "too late")
    assert client.finish(request).result == "in time"

    request = ask(client, "return io.read()")
    reply(client, "the second time")
    assert client.finish(request).result == "the second time"


def test_what_is_left_of_an_answer_is_not_read_by_the_next_cell(client: Client) -> None:
    request = ask(client, "return io.read(2)")
    reply(client, "abcdef")
    assert client.finish(request).result == "ab"

    request = ask(client, "return io.read()")
    reply(client, "fresh")
    assert client.finish(request).result == "fresh"


def test_a_cell_that_waits_for_input_can_be_interrupted(client: Client) -> None:
    request = ask(client, "pcall(io.read) io.read()")
    client.ask("interrupt_request", channel="control")
    answer = client.finish(request)

    assert answer.error["ename"] == "Interrupted"
    reply(client, "too late")
    request = ask(client, "return io.read()")
    reply(client, "in time")
    assert client.finish(request).result == "in time"


def test_the_kernel_is_not_deaf_while_it_waits_for_input(client: Client) -> None:
    request = ask(client, "return io.read()")

    assert client.kernel_info()
    assert "print" in client.ask("complete_request", {"code": "pri", "cursor_pos": 3}).content["matches"]

    reply(client, "done")
    assert client.finish(request).result == "done"


def test_a_front_end_that_leaves_while_it_is_asked_can_be_replaced(client: Client, second_client: Client) -> None:
    request = ask(client, "return io.read()")
    client.close()
    second_client.ask("interrupt_request", channel="control")
    second_client.until(lambda: "idle" in second_client.states_of(request), "the end of the other's cell")

    assert second_client.execute("return 1").result == "1"


@pytest.mark.parametrize(("case", "content"), [("no value", {}), ("a number", {"value": 1}), ("null", {"value": None})])
def test_an_answer_that_cannot_be_read_is_not_one(case: str, content: dict[str, object], client: Client) -> None:
    request = ask(client, "return io.read()")
    client.send("stdin", "input_reply", content)
    reply(client, "readable")

    assert client.finish(request).result == "readable"
