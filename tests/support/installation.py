"""Another installation of llmspell on this machine, whose code a test may change while it runs."""

import os
import shutil
import sysconfig
import venv
from pathlib import Path

from llmspell_kernel import __version__
from support.repository import ROOT

PACKAGES = ("kernel", "fleet", "cli")


class Installation:
    """A virtual environment with a copy of the code, and what that depends on from the present one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", symlinks=True, with_pip=False)
        self.python = str(folder / "venv/bin/python")
        self._code = folder / "code"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, self._code / package, ignore=shutil.ignore_patterns("__pycache__"))
        paths = [*(str(self._code / package) for package in PACKAGES), sysconfig.get_path("purelib")]
        (site,) = folder.glob("venv/lib/python*/site-packages")
        (site / "llmspell.pth").write_text("\n".join(paths))

    def become(self, version: str) -> None:
        """Be of that version from now on, for what is started."""
        module = self._code / "kernel/llmspell_kernel/__init__.py"
        before = module.stat()
        module.write_text((ROOT / "kernel/llmspell_kernel/__init__.py").read_text().replace(__version__, version))
        # As long as it was, and perhaps in the same second: what was compiled of it would be taken for this.
        os.utime(module, (before.st_atime, before.st_mtime + 2))
