"""The machine and the versions that a run's figures belong to."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from bench.managers import pm2_version
from bench.peers import lua_interpreter

_PACKAGES = (
    *("llmspell", "lupa", "pyzmq", "msgspec", "aiohttp", "uvloop"),
    *("ipykernel", "ilua", "jupyter-client", "jupyter-kernel-gateway", "circus", "supervisor"),
)


def facts() -> dict[str, str | int | float]:
    """What a reader must know of the machine; nothing that names it."""
    cpus = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "processor": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory (GiB)": round(memory / 1024 / 1024, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load average at the start": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Versions of the interpreter and of every package that takes part, where installed."""
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if lua := lua_interpreter():
        told = subprocess.run([lua, "-v"], capture_output=True, text=True, check=False)
        found["Lua of ilua"] = (told.stdout or told.stderr).partition("  ")[0].strip()
    if pm2 := pm2_version():
        found["pm2"] = pm2
    return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
