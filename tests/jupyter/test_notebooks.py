"""Notebooks run from the first cell to the last, by nbclient and by nbconvert."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from support.jupyter_spec import ANSWER_S, KERNEL

pytestmark = pytest.mark.jupyter


def _notebook(*codes: str) -> Any:
    spec = {"kernelspec": {"name": KERNEL, "display_name": "Lua", "language": "lua"}}
    return new_notebook(cells=[new_markdown_cell("A notebook"), *map(new_code_cell, codes)], metadata=spec)


def _run(*codes: str, **options: Any) -> list[Any]:
    notebook = _notebook(*codes)
    NotebookClient(notebook, timeout=ANSWER_S, kernel_name=KERNEL, **options).execute()
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


OUTPUTS = [
    ("nothing", "x = 1", []),
    ("printed lines are one stream", "for i = 1, 3 do print(i) end", [("stream", "stdout", "1\n2\n3\n")]),
    (
        "two streams in the order of writing",
        "io.write('a') io.stderr:write('b') io.write('c')",
        [("stream", "stdout", "a"), ("stream", "stderr", "b"), ("stream", "stdout", "c")],
    ),
    ("a result", "return {1, 2}", [("execute_result", {"text/plain": "{1, 2}"})]),
    (
        "output, display and result in order",
        "print('first') display{html='<i>x</i>', text='x'} return 3",
        [
            ("stream", "stdout", "first\n"),
            ("display_data", {"text/html": "<i>x</i>", "text/plain": "x"}),
            ("execute_result", {"text/plain": "3"}),
        ],
    ),
    ("cleared output", "print('old') clear_output() print('new')", [("stream", "stdout", "new\n")]),
    ("cleared with the next output", "print('old') clear_output(true) print('new')", [("stream", "stdout", "new\n")]),
    (
        "an updated display",
        "display('before', {id = 'd'}) update_display('d', 'after')",
        [("display_data", {"text/plain": "after"})],
    ),
]


def _shown(output: Any) -> tuple[Any, ...]:
    if output.output_type == "stream":
        return ("stream", output.name, output.text)
    return (output.output_type, dict(output.data))


@pytest.mark.parametrize(("case", "code", "expected"), OUTPUTS, ids=[case for case, _, _ in OUTPUTS])
def test_a_cell_keeps_what_it_put_out(case: str, code: str, expected: list[Any]) -> None:
    (cell,) = _run(code)

    found: list[Any] = []
    for shown in map(_shown, cell.outputs):
        # Text may come in several messages; a front end shows them as one.
        if found and shown[0] == "stream" and found[-1][:2] == shown[:2]:
            found[-1] = (*shown[:2], found[-1][2] + shown[2])
        else:
            found.append(shown)
    assert found == expected


def test_cells_share_globals_and_are_numbered() -> None:
    cells = _run("x = 20", "local y = 1", "return x, y")

    assert [cell.execution_count for cell in cells] == [1, 2, 3]
    assert cells[2].outputs[0].data["text/plain"] == "20\tnil"


def test_a_later_cell_updates_the_display_of_an_earlier_one() -> None:
    cells = _run("display('started', {id = 'progress'})", "update_display('progress', 'finished')")

    assert cells[0].outputs[0].data["text/plain"] == "finished"


def test_an_error_stops_the_notebook_and_shows_where_it_was() -> None:
    with pytest.raises(CellExecutionError, match=r"In\[2\]:1: on purpose") as raised:
        _run("x = 1", "error('on purpose')", "never = true")

    assert raised.value.ename == "LuaError"


def test_an_error_that_is_allowed_is_kept_and_the_rest_runs() -> None:
    cells = _run("error('on purpose')", "return 'ran'", allow_errors=True)

    (error,) = cells[0].outputs
    assert error.output_type == "error"
    assert "on purpose" in error.evalue
    assert cells[1].outputs[0].data["text/plain"] == "ran"


def test_input_is_refused_where_nobody_can_answer() -> None:
    with pytest.raises(CellExecutionError, match=r"io\.read: the front end .* does not answer"):
        _run("return io.read()")


def test_a_cell_beyond_its_time_is_interrupted_and_the_next_one_runs() -> None:
    notebook = _notebook("while true do end", "return 'after'")
    client = NotebookClient(notebook, timeout=1, kernel_name=KERNEL, interrupt_on_timeout=True, allow_errors=True)
    client.execute()

    assert notebook.cells[1].outputs[0].ename == "Interrupted"
    assert notebook.cells[2].outputs[0].data["text/plain"] == "after"


def test_a_cell_beyond_its_time_ends_a_run_that_does_not_interrupt() -> None:
    with pytest.raises(CellTimeoutError):
        NotebookClient(_notebook("while true do end"), timeout=1, kernel_name=KERNEL).execute()


def test_nbconvert_executes_a_notebook(tmp_path: Path) -> None:
    source = tmp_path / "hello.ipynb"
    nbformat.write(_notebook("print('hello') return 6*7", "display{html='<b>bold</b>'}"), source)
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "markdown", "--stdout", str(source)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90)

    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in ("hello", "42", "<b>bold</b>"))
