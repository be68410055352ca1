"""`python -m llmspell_kernel.zygote`: started by a supervisor, with descriptors that it inherits. Not for people.

--control FD --report FD --fleet DIR   a zygote: serves requests on one socket, its kernels report on the other
--start FD --report FD --fleet DIR     one kernel in a fresh interpreter: FD holds the request
--survey UID                           what of isolation level `strict` can be had here

DIR is the fleet's runtime directory; it is there to be found (`marks`).
"""

import os
import socket
import sys

from llmspell_kernel.__main__ import _import_msgspec


def main(arguments: list[str]) -> int:
    """Run what the arguments say; returns the exit code."""
    _import_msgspec()
    match arguments:
        case ["--control", control, "--report", report, "--fleet", _] if control.isdecimal() and report.isdecimal():
            from llmspell_kernel.zygote.server import Zygote

            Zygote(socket.socket(fileno=int(control)), socket.socket(fileno=int(report))).run()
            return 0
        case ["--start", start, "--report", report, "--fleet", _] if start.isdecimal() and report.isdecimal():
            from llmspell_kernel.zygote.child import become_kernel
            from llmspell_kernel.zygote.protocol import decode_request

            with os.fdopen(int(start), "rb") as request:
                decoded = decode_request(request.read())
            become_kernel(decoded, socket.socket(fileno=int(report)))
        case ["--survey", uid] if uid.isdecimal():
            from llmspell_kernel.zygote.surveying import print_survey

            print_survey(int(uid))
            return 0
    sys.stderr.write(f"expected a supervisor's arguments, found {arguments}: people use `llmspell fleet up`\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
