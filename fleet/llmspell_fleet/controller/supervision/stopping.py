"""The rungs of the stop ladder (`policy.ladder`), done to a process."""

import signal
from typing import assert_never

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.files import kill_tree, send_signal
from llmspell_fleet.policy.actions import Interrupt, Kill, ShutDown, Terminate


def step(entry: Entry, action: Interrupt | ShutDown | Terminate | Kill) -> None:
    """Take one rung. Whatever is suspended is let go on: it could not hear it."""
    process = entry.process
    if process is None:
        return
    match action:
        case Interrupt():
            send_signal(process, signal.SIGINT)
        case ShutDown():
            # Without a connection nobody is asked, and its deadline leads to the next rung.
            if entry.channel is not None:
                entry.channel.shut_down()
        case Terminate():
            send_signal(process, signal.SIGTERM)
        case Kill():
            kill_tree(process)
            entry.grip.kill()
            return
        case _:
            assert_never(action)
    send_signal(process, signal.SIGCONT)
