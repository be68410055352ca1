"""What of level `strict` this machine lets us have: asked of a process that tries it."""

import os
import subprocess
import sys
from typing import Final

import msgspec

from llmspell_fleet.model.isolation import DEFAULT_UIDS, Survey
from llmspell_fleet.policy.isolation import LEAST_LANDLOCK_ABI
from llmspell_kernel.zygote.confine import kernel_environment

_LONGEST_S: Final = 30.0


_found: Final[dict[int, Survey]] = {}


def survey(uid: int = DEFAULT_UIDS[1]) -> Survey:
    """Takes about 60 ms, once. `uid` is one that kernels would become, for root."""
    found = _found.get(uid)
    if found is None:
        found = _survey(uid)
        if not found.fault:
            _found[uid] = found
    return found


def _survey(uid: int) -> Survey:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "llmspell_kernel.zygote", "--survey", str(uid)],
            capture_output=True,
            env=kernel_environment(dict(os.environ)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            timeout=_LONGEST_S,
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=Survey)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as fault:
        return Survey(
            machine=os.uname().machine,
            has_system_calls=True,
            landlock_abi=LEAST_LANDLOCK_ABI,
            has_seccomp=True,
            is_root=os.geteuid() == 0,
            namespaces="none",
            fault=f"what it has cannot be found out: {fault}",
        )
