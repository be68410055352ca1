"""The root of the command line: help, exit codes, and how faults are told."""

import subprocess
import sys
import time

import click
import pytest

from llmspell_cli import main as cli
from llmspell_cli.commands.config import config
from llmspell_cli.commands.fleet import fleet
from llmspell_cli.commands.kernel import kernel
from llmspell_cli.commands.tenant import tenant
from llmspell_cli.groups import LazyGroup
from llmspell_kernel import __version__
from llmspell_kernel.errors import LlmspellError, MisuseError, NotRunningError, RefusedError
from support.homes import Home

GROUPS = [cli.root, kernel, fleet, tenant, config]


def _end(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _commands() -> list[tuple[str, click.Command]]:
    return [
        (f"{group.name} {name}", command)
        for group in GROUPS
        for name in group.list_commands(click.Context(group))
        if (command := group.get_command(click.Context(group), name)) is not None
    ]


@pytest.mark.parametrize("command", [command for _, command in _commands()], ids=[name for name, _ in _commands()])
def test_every_command_explains_itself_with_examples(command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=command.name))

    assert "Examples:\n  llmspell " in text
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: str(group.name))
def test_a_group_s_table_names_commands_that_are_there(group: LazyGroup) -> None:
    context = click.Context(group)

    assert all(group.get_command(context, name) is not None for name in group.list_commands(context))
    assert group.get_command(context, "no such command") is None


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert _end("--version") == 0

    assert capsys.readouterr().out == f"llmspell {__version__}\n"


@pytest.mark.parametrize(
    ("case", "arguments", "message"),
    [
        ("a command that is not there", ["kernle"], "no such command `kernle`: did you mean `kernel`?"),
        ("nothing like it", ["xyzzy"], "there are run, exec, kernel, fleet, tenant, config"),
        ("an option that is not there", ["kernel", "start", "--demon"], "--daemon"),
        ("a missing argument", ["run"], "Missing argument 'SCRIPT'"),
        ("no duration", ["kernel", "start", "--idle-timeout", "soon"], "expected a duration such as"),
        ("no size", ["kernel", "start", "--log-rotate-size", "big"], "expected a size such as"),
        ("no port", ["kernel", "start", "--port", "70000"], "70000 is not in the range"),
        ("two places at once", ["kernel", "start", "--daemon", "--foreground"], "exclude each other"),
        ("two kernels at once", ["kernel", "stop", "--all", "--id", "x"], "exclude each other"),
        ("two places for a fleet", ["fleet", "up", "--daemon", "--foreground"], "exclude each other"),
        (
            "an address for a new fleet",
            ["fleet", "up", "--url", "http://localhost:1"],
            "--url is for a fleet that runs",
        ),
        ("two installations at once", ["kernel", "install", "--user", "--sys-prefix"], "exclude each other"),
    ],
)
def test_misuse_exits_with_2_and_says_what_was_expected(
    case: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _end(*arguments) == 2, case

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LlmspellError("failed"), 1, "llmspell: failed\n"),
        (MisuseError("misused"), 2, "llmspell: misused\n"),
        (NotRunningError("not there"), 3, "llmspell: not there\n"),
        (RefusedError("refused"), 4, "llmspell: refused\n"),
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError("oops"), 1, "llmspell: ZeroDivisionError: oops\nThis is llmspell's own fault"),
    ],
)
def test_a_fault_is_a_message_and_an_exit_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(cli.root, "main", fail)

    assert _end("exec", "1") == code
    assert capsys.readouterr().err.startswith(text)


def test_a_traceback_is_shown_on_request_beside_the_message_and_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RefusedError("not like this")

    monkeypatch.setattr(cli.root, "main", fail)

    assert _end("--debug", "exec", "1") == 4
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("llmspell: not like this\n")


def test_the_traceback_of_a_fault_of_ours_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(cli.root, "main", fail)

    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", "exec", "1"])


@pytest.mark.integration
def test_a_reader_that_had_enough_is_no_fault(home: Home) -> None:
    with subprocess.Popen(
        home.command("config", "show"), env=home.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == b""
        assert process.wait(20) in (0, 1)


_HEAVY = {"zmq", "lupa", "rich", "asyncio", "tomllib", "logging", "llmspell_kernel.config"}
_IMPORTED_FOR_HELP = """
import sys
from llmspell_cli.main import main
try:
    main(["--help"])
finally:
    print("imported:", *sys.modules, file=sys.stderr)
"""


@pytest.mark.integration
def test_help_imports_nothing_heavy(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED_FOR_HELP],
        # Measuring coverage imports half of the library into the child.
        env={name: value for name, value in home.environ.items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    imported = done.stderr.partition("imported: ")[2].split()
    assert "llmspell_cli.main" in imported
    assert not _HEAVY & set(imported)


@pytest.mark.integration
def test_help_is_there_at_once(home: Home) -> None:
    # Coverage measures this process too, and slows it down; the budget without is 120 ms.
    environ = {key: value for key, value in home.environ.items() if not key.startswith("COV")}

    def took_s() -> float:
        began = time.monotonic()
        subprocess.run(home.command("--help"), env=environ, capture_output=True, timeout=30, check=True)
        return time.monotonic() - began

    assert min(took_s() for _ in range(5)) < 0.4, "three times the budget, for a machine that is busy"
