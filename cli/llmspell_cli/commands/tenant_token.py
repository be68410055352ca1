"""``tenant token``: another token for a tenant."""

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command

_EXAMPLES = """
llmspell tenant token acme
llmspell tenant token acme > acme.token
"""


@click.command(cls=Command, examples=_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@fleet_options
def token(where: Where, tenant_id: str) -> int:
    """Give the tenant TENANT another token and print it, this once; those before open nothing any more."""
    click.echo(where.client().renew_token(tenant_id).token)
    return Exit.DONE
