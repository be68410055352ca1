"""``kernel``: the group of commands about kernels."""

import click

from llmspell_cli.groups import LazyGroup

_HERE = "llmspell_cli.commands"
_COMMANDS = {
    "start": (f"{_HERE}.kernel_start:start", "Start a kernel, in the foreground or as a daemon."),
    "serve": (f"{_HERE}.kernel_start:start", "The same as start."),
    "stop": (f"{_HERE}.kernel_stop:stop", "Stop a kernel, or all of them."),
    "status": (f"{_HERE}.kernel_status:status", "Ask running kernels how they are."),
    "list": (f"{_HERE}.kernel_status:list_command", "List the kernels of this user."),
    "connect": (f"{_HERE}.kernel_status:connect", "Prove that a kernel answers, and show how to attach."),
    "install": (f"{_HERE}.kernel_install:install", "Make Jupyter know this kernel."),
}


_KERNEL_EXAMPLES = """
llmspell kernel start                     # in the foreground; prints how to attach
llmspell kernel start --daemon --id work  # in the background, found as `work`
llmspell kernel status
llmspell kernel stop --id work
llmspell kernel install                   # for JupyterLab and the like
"""


@click.group(cls=LazyGroup, commands=_COMMANDS, examples=_KERNEL_EXAMPLES)
def kernel() -> None:
    """Start, stop, find and install kernels."""
