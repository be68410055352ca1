"""`python -m llmspell_fleet`: a fleet in the foreground, for service managers. People use `llmspell fleet up`."""

import sys
from pathlib import Path

import msgspec

from llmspell_fleet import presence
from llmspell_fleet.options import FleetOptions
from llmspell_fleet.paths import choose_paths
from llmspell_kernel.errors import LlmspellError

USAGE = """usage: python -m llmspell_fleet [--config FILE]

Run a fleet until SIGTERM. It logs to standard error; LLMSPELL_RUNTIME_DIR, LLMSPELL_STATE_DIR and LLMSPELL_LOG_DIR
say where its files are.

  --config FILE   a configuration file (default: the built-in defaults)

People start fleets with `llmspell fleet up`, which has more options.
"""


def main(arguments: list[str]) -> int:
    """Run a fleet; returns the exit code."""
    match arguments:
        case ["--check", number] if number.isdecimal():
            return _check(int(number))
        case ["--resume", number] if number.isdecimal():
            return _resume(int(number))
        case []:
            options = FleetOptions()
        case ["-c" | "--config", file]:
            options = FleetOptions(config_file=str(Path(file).absolute()))
        case ["-h" | "--help"]:
            sys.stdout.write(USAGE)
            return 0
        case _:
            sys.stderr.write(USAGE)
            return 2
    try:
        presence.require_none(choose_paths())
        from llmspell_fleet.app import serve

        return serve(options)
    except LlmspellError as fault:
        sys.stderr.write(f"llmspell fleet: {fault}\n")
        return fault.exit_code


def _check(descriptor: int) -> int:
    """Say whether a fleet could start, and of which version it would be: for one that is to be replaced by it."""
    try:
        from llmspell_fleet.app import check
        from llmspell_fleet.upgrade import Checked, read_settings

        version = check(read_settings(descriptor).options())
    except LlmspellError as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(Checked(version)))
    return 0


def _resume(descriptor: int) -> int:
    """Go on as the fleet that this process has been (`upgrade`)."""
    from llmspell_fleet.app import serve
    from llmspell_fleet.upgrade import read_handover

    try:
        handover = read_handover(descriptor)
        return serve(handover.settings.options(), handover)
    except LlmspellError as fault:
        sys.stderr.write(f"llmspell fleet: {fault}\n")
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
