"""The kernelspec by which Jupyter front ends find this kernel: `kernel.json` and a logo in a data directory.

https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs
"""

import json
import os
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from llmspell_kernel.errors import RefusedError

NAME = "llmspell"


def kernel_json(interpreter: str) -> dict[str, Any]:
    """The specification of a kernel that runs in `interpreter`, an absolute path."""
    return {
        "argv": [interpreter, "-m", "llmspell_kernel", "-f", "{connection_file}"],
        "display_name": "Lua 5.4 (llmspell)",
        "language": "lua",
        "interrupt_mode": "message",
        # A notebook's directory must not supply the modules of its kernel.
        "env": {"PYTHONSAFEPATH": "1"},
        "metadata": {"debugger": False},
    }


def user_data_dir(environ: Mapping[str, str], *, home: Path, platform: str) -> Path:
    """Jupyter's data directory of a user, as Jupyter itself finds it."""
    if given := environ.get("JUPYTER_DATA_DIR"):
        return Path(given)
    if platform == "darwin":
        return home / "Library" / "Jupyter"
    return Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "jupyter"


def prefix_data_dir(prefix: Path) -> Path:
    """Jupyter's data directory below an installation prefix."""
    return prefix / "share" / "jupyter"


def install(data_dir: Path) -> Path:
    """Write the kernelspec below `data_dir`, replacing one of ours, and return its directory."""
    directory = data_dir / "kernels" / NAME
    logo = resources.files("llmspell_cli").joinpath("logo-svg.svg").read_bytes()
    specification = json.dumps(kernel_json(sys.executable), indent=2) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(directory / "kernel.json", specification.encode())
        _replace(directory / "logo-svg.svg", logo)
    except OSError as error:
        raise RefusedError(f"the kernelspec cannot be written to {directory}: {error.strerror}") from error
    return directory


def _replace(path: Path, content: bytes) -> None:
    # A front end may list kernelspecs at any moment: it sees the old file or the new one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
