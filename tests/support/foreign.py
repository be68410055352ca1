"""A file that is not ours, without pretending: another user's, made where the tests run as root."""

import os
from pathlib import Path

_NOBODY = 65534


def foreign_file(directory: Path) -> Path:
    """A regular file of another user."""
    if os.geteuid() != 0:
        return Path("/etc/passwd")
    path = directory / "theirs"
    path.write_text("1\n2\n")
    path.chmod(0o600)
    os.chown(path, _NOBODY, _NOBODY)
    return path
