"""One script in this process: the terminal as its host, Ctrl-C, limits, and output that nobody takes."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.local import INTERRUPTED_EXIT, LocalOutcome, run_local
from support.lua import DEADLINE_S

_RUN = """
import json, sys
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.local import run_local
order = json.loads(sys.argv[1])
outcome = run_local(order["code"], name="script.lua", args=order["args"], limits=KernelLimits(**order["limits"]))
sys.stderr.write(json.dumps([outcome.status, outcome.result, outcome.traceback]))
sys.stderr.flush()
"""


def _start(
    code: str, *, args: tuple[str, ...] = (), stdout: Any = subprocess.PIPE, **limits: Any
) -> subprocess.Popen[bytes]:
    order = json.dumps({"code": code, "args": args, "limits": limits})
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, order], stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE
    )


def _end(process: subprocess.Popen[bytes], text: bytes = b"") -> tuple[bytes, Any]:
    """What it wrote, and what the script came to."""
    try:
        out, err = process.communicate(text, timeout=DEADLINE_S)
    finally:
        process.kill()
    return out, json.loads(err) if err.startswith(b"[") else err


def _here(code: str, *args: str, **limits: Any) -> LocalOutcome:
    return run_local(code, name="script.lua", args=list(args), limits=KernelLimits(**limits))


def test_a_script_runs_and_its_result_is_text() -> None:
    assert _here("return 6 * 7, ...", "x") == LocalOutcome("ok", "42\tx", [])
    assert _here("x = 1") == LocalOutcome("ok", None, [])
    assert _here("return '\\255'").result == "\ufffd"


def test_errors_name_the_script() -> None:
    assert _here("\nerror('broken')").traceback == [
        "LuaError: script.lua:2: broken",
        "stack traceback:",
        "  [C]: in function 'error'",
        "  script.lua:2: in main chunk",
    ]


def test_the_arguments_are_there_both_ways() -> None:
    assert _here("return arg[0], arg[1], #arg, ...", "one", "two").result == "script.lua\tone\t2\tone\ttwo"


def test_bytes_of_the_command_line_reach_the_script_as_they_were() -> None:
    assert _here("return #'\udcff', #(...), (...):byte()", "\udcfe").result == "1\t1\t254"


def test_scripts_before_do_not_linger() -> None:
    _here("kept = 1")

    assert _here("return kept").result == "nil"


@pytest.mark.integration
def test_output_goes_out_as_it_is_and_in_order() -> None:
    out, (status, *_) = _end(
        _start("print('a') io.write('\\255', 1) display{text = 'shown', html = 'b'} clear_output()")
    )

    assert (out, status) == (b"a\n\xff1shown\n", "ok")


@pytest.mark.integration
def test_stderr_is_stderr() -> None:
    process = _start("io.stderr:write('oops ') warn('careful')")
    out, err = process.communicate(timeout=DEADLINE_S)

    assert out == b""
    assert err.startswith(b"oops Lua warning: careful\n")


@pytest.mark.integration
def test_input_is_standard_input() -> None:
    out, (_, result, _) = _end(_start("io.write('? ') return io.read('l', 'n', 'a')"), b"one\n2 rest\nlast")

    assert (out, result) == (b"? ", "one\t2\t rest\nlast\n")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("limits", "status", "words"),
    [
        ({"memory_bytes": 8 << 20}, "error", "not enough memory"),
        ({"output_bytes": 1000}, "error", "the output limit of one execution was reached"),
        ({"execution_timeout_s": 0.2}, "timeout", "the execution time limit was reached"),
    ],
)
def test_limits_hold(limits: dict[str, Any], status: str, words: str) -> None:
    _, (found, _, traceback) = _end(
        _start("local t = {} while true do print('x') t[#t + 1] = ('y'):rep(1000) end", **limits)
    )

    assert found == status
    assert words in traceback[0]


@pytest.mark.integration
def test_ctrl_c_interrupts_the_script_and_not_the_process() -> None:
    process = _start("print('on') io.stdout:flush() pcall(function() while true do end end)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"

    process.send_signal(signal.SIGINT)
    _, (status, _, traceback) = _end(process)

    assert (status, process.returncode) == ("interrupted", 0)
    assert traceback[0] == "Interrupted: interrupted at script.lua:1"


@pytest.mark.integration
def test_a_script_stuck_in_one_call_is_ended_with_its_process() -> None:
    process = _start("print('on') io.stdout:flush() return (('a'):rep(40)):find(('a-'):rep(40) .. 'b')")
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"

    process.send_signal(signal.SIGINT)
    _, err = _end(process)

    assert process.returncode == INTERRUPTED_EXIT
    assert err == (b"interrupt: the script was ended with its process: it is in one call that never returns to Lua\n")


def _full(_: Path) -> IO[bytes]:
    return Path("/dev/full").open("wb")


def _closed_pipe(folder: Path) -> IO[bytes]:
    """The writing end of a FIFO whose reader has gone."""
    path = folder / "fifo"
    subprocess.run(["mkfifo", str(path)], check=True)
    reader = subprocess.Popen(["head", "-c", "0", str(path)], stdout=subprocess.DEVNULL)
    writer = path.open("wb")
    reader.wait(DEADLINE_S)
    return writer


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "open_output", "why"),
    [("a full disk", _full, "No space left on device"), ("a pipe without a reader", _closed_pipe, "Broken pipe")],
)
@pytest.mark.parametrize(
    "code", ["print('lost')", "for i = 1, 1e6 do print(i) end while true do end", "print(1) error('x')"]
)
def test_output_that_is_lost_is_an_error(tmp_path: Path, case: str, open_output: Any, why: str, code: str) -> None:
    with open_output(tmp_path) as output:
        _, (status, result, traceback) = _end(_start(code, stdout=output))

    assert (status, result) == ("error", None)
    assert traceback[0] == f"OutputError: output was lost: {why}"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("code", "closed", "words"),
    [
        ("print(1)", ">&-", "OutputError: output was lost: it is closed"),
        ("return io.read()", "<&-", "LuaError: io.read: standard input cannot be read: it is closed"),
    ],
)
def test_a_closed_stream_is_said(code: str, closed: str, words: str) -> None:
    order = json.dumps({"code": code, "args": [], "limits": {}})
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, _RUN, order],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert json.loads(done.stderr)[2][0] == words
