"""What of `strict` this machine lets this user have: found by doing all of it, in a process that ends then.

`python -m llmspell_kernel.zygote --survey UID` prints it as a line of JSON; UID is a user that kernels would become,
where this is root. Whether namespaces may be made is a matter of the system's version, its settings and whatever guards
it: only an attempt tells.
"""

import os
from typing import Final

import msgspec

from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.zygote import landlock, lockdown, seccomp
from llmspell_kernel.zygote.namespaces import Namespaces
from llmspell_kernel.zygote.protocol import Confinement
from llmspell_kernel.zygote.syscalls import MACHINE, NUMBERS

_LONGEST_REASON: Final = 500


def survey(uid: int) -> dict[str, object]:
    """The members of `llmspell_fleet.model.isolation.Survey`."""
    is_root = os.geteuid() == 0
    wanted: Namespaces = "mount" if is_root else "user"
    namespaces: Namespaces = "none"
    whole = bare = "" if MACHINE in NUMBERS else f"there is no table of system calls for {MACHINE}"
    if not bare:
        whole = _attempt(uid if is_root else None, wanted)
        namespaces = "none" if whole else wanted
        bare = _attempt(uid if is_root else None, "none") if whole else ""
    return {
        "machine": MACHINE,
        "has_system_calls": MACHINE in NUMBERS,
        "landlock_abi": landlock.abi(),
        "has_seccomp": seccomp.is_available(),
        "is_root": is_root,
        "namespaces": namespaces,
        "no_namespaces": whole,
        "fault": bare,
    }


def _attempt(uid: int | None, namespaces: Namespaces) -> str:
    """Lock a process down; returns why that could not be, "" = it could."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        reason = "it ended"
        try:
            lockdown.lock_down(Confinement(level="strict", uid=uid, namespaces=namespaces))
            reason = ""
        except LlmspellError as fault:
            cause = fault.__cause__
            reason = str(cause.strerror if isinstance(cause, OSError) else fault)
        finally:
            os.write(writer, reason.encode()[:_LONGEST_REASON])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        reason = answer.read().decode("utf-8", "replace")
    status = os.waitpid(pid, 0)[1]
    return reason if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"


def print_survey(uid: int) -> None:
    """The line of JSON."""
    os.write(1, msgspec.json.encode(survey(uid)) + b"\n")
