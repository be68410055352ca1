"""The wheel, as a user gets it: built, installed into an environment of its own, and used from there."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from support.kernels import short_folder
from support.repository import PACKAGES, ROOT, project_files

# Slow: a build, and an installation with every dependency from the index.
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]


def _run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of this test run's: no repository on the path, no coverage, no kernels of others."""
    dropped = ("COVERAGE_", "PYTHON", "PYTEST_", "LLMSPELL_", "JUPYTER_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    home = tmp_path_factory.mktemp("h")
    return kept | {"HOME": str(home), "LLMSPELL_RUNTIME_DIR": str(home / "run")}


@pytest.fixture(scope="module")
def installed(wheel: Path, clean_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("fresh")
    _run(sys.executable, "-m", "venv", folder, cwd=folder)
    # The home folder is the machine's here: how it reaches its index is configured there.
    _run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture
def kernel(installed: Path, clean_environment: dict[str, str], tmp_path: Path) -> Iterator[KernelManager]:
    manager = KernelManager(connection_file=str(tmp_path / "connection.json"))
    manager.kernel_spec.argv = [str(installed / "python"), "-m", "llmspell_kernel", "-f", "{connection_file}"]
    manager.start_kernel(env=clean_environment, cwd=str(tmp_path))
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist()}

    assert {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")} == set(PACKAGES.values())


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    parts = [file.relative_to(ROOT).parts for file in project_files()]
    wanted = {"/".join(part[1:]) for part in parts if part[0] in PACKAGES and part[1] == PACKAGES[part[0]]}

    with zipfile.ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())
    assert [name for name in wanted if name.endswith(".lua")]
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= wanted


def test_a_fresh_installation_has_what_it_depends_on(installed: Path, tmp_path: Path) -> None:
    said = _run(installed / "python", "-m", "pip", "check", cwd=tmp_path)

    assert "No broken requirements" in said


def test_a_fresh_installation_runs_a_script(installed: Path, clean_environment: dict[str, str], tmp_path: Path) -> None:
    said = _run(installed / "llmspell", "exec", "return 6*7", cwd=tmp_path, env=clean_environment)

    assert said == "42\n"


def test_a_fresh_installation_serves_a_kernel(kernel: KernelManager) -> None:
    shown: list[str] = []
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        reply = client.execute_interactive(
            "return 6*7",
            timeout=30,
            output_hook=lambda message: shown.append(message["content"].get("data", {}).get("text/plain", "")),
        )
    finally:
        client.stop_channels()

    assert reply["content"]["status"] == "ok"
    assert "42" in shown


def test_a_fleet_of_it_runs_from_an_empty_folder(
    installed: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    with short_folder() as home:
        folders = {f"LLMSPELL_{name}_DIR": str(home / name.lower()) for name in ("RUNTIME", "STATE", "LOG")}

        def llmspell(*arguments: str) -> str:
            return _run(installed / "llmspell", *arguments, cwd=tmp_path, env=clean_environment | folders)

        llmspell("fleet", "up", "--daemon", "--port", "0")
        try:
            llmspell("tenant", "create", "acme", "--replicas", "2")
            assert llmspell("tenant", "exec", "acme", "return 6*7") == "42\n"
        finally:
            llmspell("fleet", "down")

        assert list((home / "runtime").iterdir()) == []
        assert list(tmp_path.iterdir()) == []
