"""`python -m llmspell_kernel -f FILE`: a kernel on the connection file that a Jupyter client wrote.

This is the fast path of a start, so it parses its few options itself. `llmspell kernel start` is the one for people.
"""

import os
import signal
import sys

USAGE = """usage: python -m llmspell_kernel -f FILE [-c CONFIG] [--name NAME]

Serve one kernel until it is told to stop.

  -f FILE       the connection file: obeyed when a client wrote it, else where to write our own
  --name NAME   what listings call this kernel
  -c CONFIG     a configuration file (default: the built-in defaults)

People start kernels with `llmspell kernel start`; Jupyter starts this.
"""


def _import_msgspec() -> None:
    """Import msgspec without typing_extensions.

    It takes one name from there, and from `typing` when there is no such module. Finding it installed would cost a
    kernel 12 ms of its start and 1.7 MB of its memory.
    """
    name = "typing_extensions"
    if name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment] # the import system's way to say "not there"
    import msgspec  # noqa: F401

    del sys.modules[name]


def main(arguments: list[str]) -> int:
    """Run a kernel; returns the exit code."""
    # Until it serves there is nothing to interrupt, and libraries break when their import is.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_msgspec()
    from llmspell_kernel.errors import LlmspellError

    try:
        return _serve(arguments)
    except LlmspellError as fault:
        sys.stderr.write(f"llmspell kernel: {fault}\n")
        return fault.exit_code


def _serve(arguments: list[str]) -> int:
    from llmspell_kernel.app import serve
    from llmspell_kernel.connection import new_kernel_id
    from llmspell_kernel.options import ServeOptions

    if arguments[:1] == ["--replacing"] and len(arguments) == 2:
        from llmspell_kernel.replacement import read_predecessor

        predecessor = read_predecessor(int(arguments[1]))
        return serve(predecessor.options, predecessor)
    given = _parse(arguments)
    if given is None:
        sys.stderr.write(USAGE)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    options = ServeOptions(
        kernel_id=new_kernel_id(), connection_file=os.path.abspath(given["-f"]), name=given.get("--name", "")
    )
    if "-c" in given:
        from llmspell_kernel.config import configured

        options = configured(options, given["-c"])
    return serve(options)


def _parse(arguments: list[str]) -> dict[str, str] | None:
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        name, has_value, value = name.partition("=")
        if name not in ("-f", "-c", "--name") or (not has_value and not rest):
            return None
        given[name] = value if has_value else rest.pop(0)
    return given if given.get("-f") else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
