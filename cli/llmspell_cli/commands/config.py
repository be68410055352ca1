"""``config``: write, check and show configuration files."""

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from llmspell_cli import configuration
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command, LazyGroup
from llmspell_cli.options import config_option
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
llmspell config init ~/.config/llmspell/kernel.toml
llmspell config init --fleet               # writes fleet.toml here
"""
_VALIDATE_EXAMPLES = """
llmspell config validate llmspell.toml
llmspell config validate fleet.toml        # a fleet's file is known by its tables
llmspell config validate                   # the file that would be used
"""
_SHOW_EXAMPLES = """
llmspell config show
llmspell config show jupyter.ports --config llmspell.toml
llmspell config show limits --format json
llmspell config show --fleet
"""
_HIDDEN = "********"


@click.group(cls=LazyGroup, commands=_COMMANDS, examples=_CONFIG_EXAMPLES)
def config() -> None:
    """Write, check and show configuration files."""


@click.command(cls=Command, examples=_INIT_EXAMPLES)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="The same as the argument.")
@click.option("--fleet", is_flag=True, help="A fleet's configuration instead of a kernel's.")
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path | None, out: Path | None, fleet: bool, force: bool) -> int:
    """Write a complete, commented configuration file with the defaults.

    FILE: the file to write; without it llmspell.toml, or fleet.toml with --fleet.
    """
    from importlib import resources

    if file is not None and out is not None:
        raise MisuseError(f"expected one file to write, found {file} and --out {out}")
    out = file or out or Path("fleet.toml" if fleet else "llmspell.toml")
    text = resources.files("llmspell_cli").joinpath("fleet.toml" if fleet else "kernel.toml").read_bytes()
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
    command = "fleet up" if fleet else "kernel start"
    click.echo(f"wrote {out}; use it with `llmspell {command} --config {out}`")
    return Exit.DONE


@click.command(cls=Command, examples=_VALIDATE_EXAMPLES)
@click.argument("file", required=False)
@click.option("-f", "--file", "file_option", metavar="FILE", help="The same as the argument.")
@click.option("--kind", type=click.Choice(["kernel", "fleet"]), help="Whose file it is. Default: as its tables tell.")
def validate(file: str | None, file_option: str | None, kind: configuration.Kind | None) -> int:
    """Check the configuration FILE and say all that is wrong with it.

    Also said: what is accepted and not active yet, and why a kernel or a fleet would refuse to start with it.
    """
    given = file or file_option or os.environ.get("LLMSPELL_CONFIG")
    path = configuration.find_file(given, f"{kind or 'kernel'}.toml")
    if path is None and kind is None:
        path = configuration.find_file(None, "fleet.toml")
    if path is None:
        raise MisuseError("there is no configuration file to check: name one, or write one with `llmspell config init`")
    kind = kind or configuration.kind_of(path)
    told = configuration.told(path, kind)
    click.echo(f"{path} is valid")
    for notice in told.notices:
        note(notice)
    for reason in told.refusals:
        note(f"a {kind} refuses to start with it: {reason}")
    return Exit.DONE


@click.command(cls=Command, examples=_SHOW_EXAMPLES)
@click.argument("section", required=False)
@config_option("The file to show, with the defaults for what it leaves out.")
@click.option("--fleet", is_flag=True, help="A fleet's configuration: known by its tables when a file is named.")
@click.option("--format", "form", type=click.Choice(["toml", "json"]), default="toml", help="How to write it.")
def show(section: str | None, config_file: str | None, fleet: bool, form: str) -> int:
    """Show the configuration that holds, or its SECTION: the file's values, and the defaults for the rest.

    Secrets are hidden, and what has no value is left out.
    """
    kind: configuration.Kind = "fleet" if fleet else "kernel"
    path = configuration.find_file(config_file, f"{kind}.toml")
    if path is not None and not fleet:
        kind = configuration.kind_of(path)
    told = configuration.told(path, kind)
    shown = _shown(told.file)
    if section is not None:
        shown = _section(shown, section)
    if form == "json":
        print_json(shown)
    else:
        import tomli_w

        click.echo(tomli_w.dumps(shown), nl=False)
    for notice in told.notices:
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
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
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
