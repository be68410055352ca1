"""``config``: write, check and show configuration files."""

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from llmspell_cli import configuration
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command, LazyGroup
from llmspell_cli.output import note, print_json
from llmspell_kernel.errors import MisuseError, RefusedError

_HERE = "llmspell_cli.commands.config"
_COMMANDS = {
    "init": (f"{_HERE}:init", "Write a complete, commented configuration file."),
    "validate": (f"{_HERE}:validate", "Check a configuration file."),
    "show": (f"{_HERE}:show", "Show the configuration that holds."),
}
_CONFIG_EXAMPLES = """
llmspell config init
llmspell config validate llmspell.toml
llmspell config show limits
"""
_INIT_EXAMPLES = """
llmspell config init                       # writes llmspell.toml here
llmspell config init --out ~/.config/llmspell/kernel.toml
"""
_VALIDATE_EXAMPLES = """
llmspell config validate llmspell.toml
llmspell config validate                   # the file that would be used
"""
_SHOW_EXAMPLES = """
llmspell config show
llmspell config show jupyter.ports --config llmspell.toml
llmspell config show limits --format json
"""
_HIDDEN = "********"


@click.group(cls=LazyGroup, commands=_COMMANDS, examples=_CONFIG_EXAMPLES)
def config() -> None:
    """Write, check and show configuration files."""


@click.command(cls=Command, examples=_INIT_EXAMPLES)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default="llmspell.toml",
    show_default=True,
    help="The file to write.",
)
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
def init(out: Path, force: bool) -> int:
    """Write a complete, commented configuration file with the defaults."""
    from importlib import resources

    text = resources.files("llmspell_cli").joinpath("kernel.toml").read_bytes()
    # 0600: it may come to hold a key.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(out, flags, 0o600), "wb") as stream:
            stream.write(text)
    except FileExistsError:
        raise RefusedError(
            f"{out} is there already: name another file with --out, or replace it with --force"
        ) from None
    except OSError as error:
        raise RefusedError(f"{out} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {out}; use it with `llmspell kernel start --config {out}`")
    return Exit.DONE


@click.command(cls=Command, examples=_VALIDATE_EXAMPLES)
@click.argument("file", required=False)
@click.option("-f", "--file", "file_option", metavar="FILE", help="The same as the argument.")
def validate(file: str | None, file_option: str | None) -> int:
    """Check the configuration FILE and say all that is wrong with it.

    Also said: what is accepted and not active yet, and why a kernel would refuse to start with it.
    """
    from llmspell_kernel import config as configs

    path = configuration.find_file(file or file_option or os.environ.get("LLMSPELL_CONFIG"))
    if path is None:
        raise MisuseError("there is no configuration file to check: name one, or write one with `llmspell config init`")
    loaded = configs.load_config(path)
    click.echo(f"{path} is valid")
    for notice in configs.notices(loaded):
        note(notice)
    for reason in configs.refusals(loaded):
        note(f"a kernel refuses to start with it: {reason}")
    return Exit.DONE


@click.command(cls=Command, examples=_SHOW_EXAMPLES)
@click.argument("section", required=False)
@click.option(
    "-c",
    "--config",
    "config_file",
    envvar="LLMSPELL_CONFIG",
    metavar="FILE",
    help="The file to show, with the defaults for what it leaves out.",
)
@click.option("--format", "form", type=click.Choice(["toml", "json"]), default="toml", help="How to write it.")
def show(section: str | None, config_file: str | None, form: str) -> int:
    """Show the configuration that holds, or its SECTION: the file's values, and the defaults for the rest.

    Secrets are hidden, and what has no value is left out.
    """
    from llmspell_kernel import config as configs

    loaded = configuration.load(config_file)
    shown = _shown(loaded)
    if section is not None:
        shown = _section(shown, section)
    if form == "json":
        print_json(shown)
    else:
        import tomli_w

        click.echo(tomli_w.dumps(shown), nl=False)
    for notice in configs.notices(loaded):
        note(notice)
    return Exit.DONE


def _shown(loaded: msgspec.Struct) -> dict[str, Any]:
    from llmspell_kernel import settings

    data: dict[str, Any] = _without_none(msgspec.to_builtins(loaded))
    for key in settings.keys(type(loaded)):
        if key.secret:
            _hide(data, key.path)
    return data


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_none(item) for key, item in value.items() if item is not None}


def _hide(data: dict[str, Any], path: tuple[str, ...]) -> None:
    *tables, key = path
    for table in tables:
        data = data.get(table, {})
    if key in data:
        data[key] = _HIDDEN


def _section(data: dict[str, Any], section: str) -> dict[str, Any]:
    found: Any = data
    for name in section.split("."):
        if not isinstance(found, dict) or name not in found:
            there = ", ".join(found) if isinstance(found, dict) else "no more below it"
            raise MisuseError(f"there is no section {section}: expected one of {there}, found {name}")
        found = found[name]
    return found if isinstance(found, dict) else {section.rpartition(".")[2]: found}
