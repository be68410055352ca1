"""The root of `llmspell`, and the one place where a fault becomes a message and an exit code."""

import os
import sys
from typing import NoReturn

import click

from llmspell_cli.exits import Exit
from llmspell_cli.groups import LazyGroup
from llmspell_kernel import __version__
from llmspell_kernel.errors import LlmspellError

_COMMANDS = {
    "run": ("llmspell_cli.commands.run:run", "Run a Lua script."),
    "exec": ("llmspell_cli.commands.run:exec_code", "Run Lua code from the command line."),
    "kernel": ("llmspell_cli.commands.kernel:kernel", "Start, stop, find and install kernels."),
    "fleet": ("llmspell_cli.commands.fleet:fleet", "Run a fleet of kernels for many tenants."),
    "tenant": ("llmspell_cli.commands.tenant:tenant", "Make, change and end the fleet's tenants."),
    "config": ("llmspell_cli.commands.config:config", "Write, check and show configuration files."),
}


_ROOT_EXAMPLES = """
llmspell exec 'return 6*7'
llmspell run script.lua -- one two
llmspell kernel start --daemon
llmspell kernel list
llmspell fleet up --daemon
llmspell tenant create acme --replicas 2
"""


@click.group(
    cls=LazyGroup,
    commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 misuse, 3 not running, 4 refused.",
    examples=_ROOT_EXAMPLES,
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="llmspell", message="%(prog)s %(version)s")
def root(debug: bool) -> None:
    """Lua script kernels as a service."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command that the arguments ask for, and end the process with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    # Options of the root come before the command's name, so the rest is the command's own.
    shows_traceback = "--debug" in arguments[:1]
    try:
        return int(root.main(arguments, prog_name="llmspell", standalone_mode=False) or Exit.DONE)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except LlmspellError as error:
        if shows_traceback:
            _show_traceback()
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would try to flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        if shows_traceback:
            _show_traceback()
        _say(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        return Exit.FAILED
    except Exception as error:  # the boundary: everything else is a fault of ours
        if shows_traceback:
            raise
        _say(f"{type(error).__name__}: {error}\nThis is llmspell's own fault; `llmspell --debug` shows where.")
        return Exit.FAILED


def _show_traceback() -> None:
    import traceback

    traceback.print_exc()


def _say(message: str) -> None:
    click.echo(f"llmspell: {message}", err=True)
