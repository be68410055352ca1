"""`llmspell run` and `llmspell exec`, here and in a running kernel."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.homes import DEADLINE_S, Home, new_home, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def served() -> Iterator[Home]:
    """A home in which one kernel, named `work`, runs."""
    with new_home() as home:
        home.start_kernel("--id", "work")
        yield home


def _script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "script.lua"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("return 6*7", "42\n"),
        ("1 + 1", "2\n"),
        ("return 1, 2", "1\t2\n"),
        ("x = 1", ""),
        ('print("out")', "out\n"),
        ('print("out") return 1', "out\n1\n"),
    ],
)
@pytest.mark.parametrize("where", ["here", "there"])
def test_exec_shows_output_and_value(served: Home, code: str, shown: str, where: str) -> None:
    connect = ["--connect", "work"] if where == "there" else []

    done = served.llmspell("exec", *connect, code)

    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


@pytest.mark.parametrize("where", ["here", "there"])
def test_an_error_is_told_in_lua_s_words_and_exits_with_1(served: Home, where: str) -> None:
    connect = ["--connect", "work"] if where == "there" else []

    done = served.llmspell("exec", *connect, 'print("before") error("broken")')

    assert (done.returncode, done.stdout) == (1, "before\n")
    assert "broken" in done.stderr
    assert ".py" not in done.stderr


def test_exec_starts_anew_here_and_continues_there(served: Home) -> None:
    code = "counted = (counted or 0) + 1 return counted"

    assert [served.llmspell("exec", code).stdout for _ in range(2)] == ["1\n", "1\n"]
    assert [served.llmspell("exec", "--connect", "work", code).stdout for _ in range(2)] == ["1\n", "2\n"]


def test_a_script_gets_its_arguments(home: Home, tmp_path: Path) -> None:
    script = _script(tmp_path, "local first = ... print(first, arg[1], arg[2], #arg)")

    done = home.llmspell("run", script, "--", "one", "--two")

    assert (done.returncode, done.stdout, done.stderr) == (0, "one\tone\t--two\t2\n", "")


def test_a_script_there_gets_its_arguments_as_arg(served: Home, tmp_path: Path) -> None:
    script = _script(tmp_path, "for i = 0, #arg do print(arg[i]) end")
    strange = 'a "quoted" \\ and é\ttab\nline'

    done = served.llmspell("run", "--connect", "work", script, "--", strange)

    assert (done.returncode, done.stdout) == (0, f"{script}\n{strange}\n")


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_script_may_begin_with_a_shell_s_line_and_keeps_its_line_numbers(
    served: Home, tmp_path: Path, where: str
) -> None:
    connect = ["--connect", "work"] if where == "there" else []
    script = _script(tmp_path, '#!/usr/bin/env llmspell run\nlocal x = 1\nerror("broken")\n')

    done = served.llmspell("run", *connect, script, "--", "argument")

    assert done.returncode == 1
    assert ":3: broken" in done.stderr


def test_a_script_that_cannot_be_read_is_misuse(home: Home, tmp_path: Path) -> None:
    binary = tmp_path / "binary.lua"
    binary.write_bytes(b"\x1bLua\xff")

    missing, compiled = home.llmspell("run", str(tmp_path / "none.lua")), home.llmspell("run", str(binary))

    assert (missing.returncode, compiled.returncode) == (2, 2)
    assert "none.lua cannot be read: No such file or directory" in missing.stderr
    assert "is not UTF-8 text (byte 4)" in compiled.stderr


def test_limits_come_from_the_configuration(home: Home, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('[limits]\nmemory_bytes = "32MB"\n')

    done = home.llmspell("exec", "--config", str(tmp_path / "small.toml"), 'return #string.rep("x", 64 * 1024 * 1024)')

    assert done.returncode == 1
    assert "not enough memory" in done.stderr


def test_a_time_limit_ends_a_script_here(home: Home, tmp_path: Path) -> None:
    (tmp_path / "brief.toml").write_text('[limits]\nexecution_timeout_s = "200ms"\n')

    assert home.llmspell("exec", "--config", str(tmp_path / "brief.toml"), "while true do end").returncode == 1


@pytest.mark.parametrize("where", ["here", "there"])
def test_standard_input_is_the_script_s(served: Home, where: str) -> None:
    connect = ["--connect", "work"] if where == "there" else []

    done = served.llmspell("exec", *connect, "return io.read(), io.read()", stdin="one\ntwo\n")

    assert (done.returncode, done.stdout) == (0, "one\ttwo\n")


@pytest.mark.parametrize("where", ["here", "there"])
def test_ctrl_c_interrupts_and_exits_with_130(served: Home, tmp_path: Path, where: str) -> None:
    connect = ["--connect", "work"] if where == "there" else []
    output = tmp_path / "output"
    with (
        output.open("wb") as stream,
        subprocess.Popen(
            served.command("exec", *connect, 'print("on") io.stdout:flush() while true do end'),
            env=served.environ,
            stdout=stream,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        try:
            if where == "there":
                wait_until(lambda: output.read_bytes() == b"on\n", "the script runs")
            else:
                _wait_for_handler(process.pid)
            process.send_signal(signal.SIGINT)

            assert process.wait(DEADLINE_S) == 130
        finally:
            process.kill()
    assert served.llmspell("exec", "--connect", "work", "return 1").stdout == "1\n"


def test_ctrl_c_while_a_script_reads_interrupts_it(served: Home) -> None:
    with subprocess.Popen(
        served.command("exec", "--connect", "work", 'io.write("? ") return io.read()'),
        env=served.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(2) == b"? "
            _wait_for_sleep(process.pid)
            process.send_signal(signal.SIGINT)

            assert process.wait(DEADLINE_S) == 130
        finally:
            process.kill()
    assert served.llmspell("exec", "--connect", "work", "return 1").stdout == "1\n"


def test_a_second_ctrl_c_leaves_a_kernel_that_does_not_answer(home: Home) -> None:
    pid = json.loads(home.start_kernel("--id", "stuck").read_text())["pid"]
    with subprocess.Popen(
        home.command("exec", "--connect", "stuck", 'print("on") while true do end'),
        env=home.environ,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
            os.kill(pid, signal.SIGSTOP)
            process.send_signal(signal.SIGINT)
            _wait_for_sleep(process.pid)
            process.send_signal(signal.SIGINT)

            assert process.wait(DEADLINE_S) == 130
        finally:
            process.kill()


def test_a_reader_that_had_enough_interrupts_the_script(served: Home) -> None:
    with subprocess.Popen(
        served.command("exec", "--connect", "work", "while true do print(1) end"),
        env=served.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"1\n"
            process.stdout.close()

            assert process.wait(DEADLINE_S) == 1
            assert process.stderr.read() == b""
        finally:
            process.kill()
    assert served.llmspell("exec", "--connect", "work", "return 1").stdout == "1\n"


def test_displays_are_shown_as_text(served: Home) -> None:
    done = served.llmspell("exec", "--connect", "work", 'display(7) clear_output() display{text="eight"}')

    assert done.stdout == "7\neight\n"


def _wait_for_sleep(pid: int) -> None:
    """Until the process waits for something: it has nothing else left to do."""
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "S", "the process waits")


def _wait_for_handler(pid: int) -> None:
    """Until the process has its own idea of SIGINT: Lua has begun by then."""

    def handles() -> bool:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        return bool(caught >> (signal.SIGINT - 1) & 1) and threads > 1

    wait_until(handles, "the script runs")


@pytest.mark.parametrize(
    ("target", "message"),
    [("nobody", "there is no kernel nobody"), ("./none.json", "there is no connection file")],
)
def test_a_kernel_that_is_not_there_exits_with_3(home: Home, target: str, message: str) -> None:
    done = home.llmspell("exec", "--connect", target, "return 1")

    assert done.returncode == 3
    assert message in done.stderr
