"""Click's commands and groups as this program has them: examples in the help, and imports only when used."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Command(click.Command):
    """A command whose help ends with `examples`, line by line as they are written."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then what click has to say."""
        write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


class LazyGroup(click.Group):
    """A group that knows its commands by a table and imports one when it is used.

    `commands` maps a name to where the command is, as ``module:object``, and to its line in the group's help.
    """

    def __init__(self, *args: Any, commands: Mapping[str, tuple[str, str]], examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = dict(commands)
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every name, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The command, imported now; None when there is none of that name."""
        if cmd_name not in self.table:
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it, with the nearest name for one that does not exist."""
        name = args[0]
        if name not in self.table and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self.table, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(self.table)}"
            ctx.fail(f"no such command `{name}`: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the commands from the table alone, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then what click has to say."""
        write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Write a section of examples, its lines unwrapped."""
    if examples:
        with formatter.section("Examples"):
            for line in examples.strip().splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
