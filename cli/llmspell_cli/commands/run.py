"""``run`` and ``exec``: Lua in this process, or in a kernel that runs."""

from pathlib import Path

import click

from llmspell_cli import configuration
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command
from llmspell_cli.options import KERNEL_CONFIG, config_option, connect_option
from llmspell_kernel.errors import MisuseError

_RUN_EXAMPLES = """
llmspell run script.lua
llmspell run script.lua -- one two
llmspell run --config limits.toml script.lua
llmspell run --connect 3f2a script.lua       # in a running kernel
"""


@click.command(cls=Command, examples=_RUN_EXAMPLES)
@click.argument("script", type=click.Path(dir_okay=False))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@config_option(KERNEL_CONFIG)
@connect_option
def run(script: str, args: tuple[str, ...], config_file: str | None, target: str | None) -> int:
    """Run the Lua script SCRIPT.

    What follows `--` is the script's own: `...` and `arg[1]` onwards. Ctrl-C interrupts it.
    """
    try:
        code = Path(script).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MisuseError(f"the script {script} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MisuseError(f"the script {script} is not UTF-8 text (byte {error.start}): expected Lua source") from None
    if code.startswith("#"):
        # The shell's line. Its end stays, so that errors name the right lines.
        code = code[code.find("\n") :] if "\n" in code else ""
    return _run(code, script, list(args), config_file, target, shows_result=False)


_EXEC_CODE_EXAMPLES = """
llmspell exec 'return 6*7'
llmspell exec '1 + 1'
llmspell exec --connect 3f2a 'counter = (counter or 0) + 1 return counter'
"""


@click.command("exec", cls=Command, examples=_EXEC_CODE_EXAMPLES)
@click.argument("code")
@config_option(KERNEL_CONFIG)
@connect_option
def exec_code(code: str, config_file: str | None, target: str | None) -> int:
    """Run the Lua code CODE and print what it comes to."""
    return _run(code, "exec", [], config_file, target, shows_result=True)


def _run(
    code: str, name: str, args: list[str], config_file: str | None, target: str | None, *, shows_result: bool
) -> int:
    if target is not None:
        from llmspell_cli import remote

        return remote.run(code, name, args, target, shows_result=shows_result)
    from llmspell_kernel.runtime.local import run_local

    outcome = run_local(code, name=name, args=args, limits=configuration.local_limits(config_file))
    if shows_result and outcome.result is not None:
        click.echo(outcome.result)
    for line in outcome.traceback:
        click.echo(line, err=True)
    return _exit_code(outcome.status)


def _exit_code(status: str) -> int:
    if status == "ok":
        return Exit.DONE
    return Exit.INTERRUPTED if status == "interrupted" else Exit.FAILED
