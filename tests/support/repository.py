"""What is in the repository, as the tests of its shape ask for it."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"kernel": "llmspell_kernel", "fleet": "llmspell_fleet", "cli": "llmspell_cli"}


def project_files() -> list[Path]:
    """Every file that is tracked or could be committed now."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def text_of(file: Path) -> str:
    """The file's text, empty for what is not text."""
    content = file.read_bytes()
    return "" if b"\0" in content else content.decode()
