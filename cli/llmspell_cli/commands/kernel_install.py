"""``kernel install``: make Jupyter know this kernel."""

import os
import sys
from pathlib import Path

import click

from llmspell_cli import kernelspec
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command

_INSTALL_EXAMPLES = """
llmspell kernel install                    # for this user
llmspell kernel install --sys-prefix       # for everybody who uses this Python environment
llmspell kernel install --prefix /usr/local
"""


@click.command(cls=Command, examples=_INSTALL_EXAMPLES)
@click.option(
    "--user",
    "for_user",
    is_flag=True,
    help="For this user (the default): $JUPYTER_DATA_DIR or the platform's.",
)
@click.option("--sys-prefix", is_flag=True, help="Into this Python environment.")
@click.option("--prefix", type=click.Path(path_type=Path), metavar="P", help="Below P/share/jupyter.")
def install(for_user: bool, sys_prefix: bool, prefix: Path | None) -> int:
    """Make Jupyter know this kernel, as `Lua 5.4 (llmspell)`, run by the Python that runs this command."""
    if for_user + sys_prefix + (prefix is not None) > 1:
        raise click.UsageError("--user, --sys-prefix and --prefix exclude each other")
    if prefix is not None:
        data_dir = kernelspec.prefix_data_dir(prefix.absolute())
    elif sys_prefix:
        data_dir = kernelspec.prefix_data_dir(Path(sys.prefix))
    else:
        data_dir = kernelspec.user_data_dir(os.environ, home=Path.home(), platform=sys.platform)
    click.echo(f"installed the kernelspec {kernelspec.NAME} in {kernelspec.install(data_dir)}")
    return Exit.DONE
