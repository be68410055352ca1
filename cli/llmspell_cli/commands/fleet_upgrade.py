"""``fleet upgrade``: the code that is installed now takes the place of the one that runs."""

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import output_option
from llmspell_cli.output import counted, print_json
from llmspell_fleet.model.requests import UpgradeRequest

_UPGRADE_EXAMPLES = """
llmspell fleet upgrade
llmspell fleet upgrade --wait 60
"""


@click.command(cls=Command, examples=_UPGRADE_EXAMPLES)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long requests that are being answered may take to end.",
)
@click.option("--force", is_flag=True, help="Go on after that all the same; the answers that are missing are lost.")
@output_option
@fleet_options
def upgrade(where: Where, wait_s: float, force: bool, output: str) -> int:
    """Replace the controller's code by what is installed now.

    Kernels run on, and clients stay connected. Exits with 4 and the reason, and nothing is changed, when the new code
    or its configuration cannot start.
    """
    done = where.client().upgrade(UpgradeRequest(wait_s=wait_s, force=force))
    if output == "json":
        print_json(done)
    else:
        versions = f"{done.from_version} to {done.to_version}"
        click.echo(f"fleet is upgraded from {versions}, process {done.pid}; {counted(done.adopted, 'kernel')} adopted")
    return Exit.DONE
