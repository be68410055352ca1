"""JupyterLab in Chromium: a server of the test's own, and the notebook page as a person uses it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from support.homes import wait_until
from support.jupyter_spec import KERNEL

SHOWN_S = 60.0
"""How long something may take to be seen: the browser shares two processors with everything else."""

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium_path() -> str:
    """The system's Chromium. Without it the test is skipped, in CI it fails."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "NO CHROMIUM: JupyterLab was not tried in a browser (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    path = chromium_path()
    expect.set_options(timeout=SHOWN_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A JupyterLab server on `folder`/notebooks; the address that it chose. Its kernels end with it."""
    (folder / "notebooks").mkdir()
    (folder / "config" / "labconfig").mkdir(parents=True)
    without = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (folder / "config" / "labconfig" / "page_config.json").write_text(json.dumps(without))
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"),
        *("--ServerApp.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder / 'notebooks'}"),
    ]
    with (folder / "lab.log").open("wb") as log:
        # Not measured: coverage's own handler of SIGTERM may wait for a lock for ever in so many threads.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)
    try:
        yield _address(server, folder)
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()  # how Jupyter's server ends is not what is tested
            server.wait()


def _address(server: "subprocess.Popen[bytes]", folder: Path) -> str:
    file = folder / "runtime" / f"jpserver-{server.pid}.json"
    log = folder / "lab.log"
    wait_until(lambda: file.exists() or server.poll() is not None, "JupyterLab's server", deadline_s=SHOWN_S)
    assert server.poll() is None, log.read_text()
    wait_until(lambda: file.read_text().endswith("}"), "JupyterLab's address")
    address: str = json.loads(file.read_text())["url"]
    return address


class Notebook:
    """A notebook that is open in JupyterLab. Cells count from 0."""

    def __init__(self, page: Page, lab: str, folder: Path, name: str, *codes: str) -> None:
        self._page = page
        spec = {"kernelspec": {"name": KERNEL, "display_name": "Lua", "language": "lua"}}
        notebook = new_notebook(cells=[new_code_cell(code) for code in codes], metadata=spec)
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
        page.goto(f"{lab}lab/workspaces/{name}/tree/{name}.ipynb?reset")
        self.is_idle()

    def is_idle(self) -> None:
        """Wait until the kernel is."""
        self._has_status("Idle")

    def is_busy(self) -> None:
        """Wait until the kernel is."""
        self._has_status("Busy")

    def _has_status(self, status: str) -> None:
        # The indicator of the notebook says idle before there is a kernel; what is run then is lost.
        expect(self._page.locator("#jp-main-statusbar")).to_contain_text(f"(llmspell) | {status}")

    def cell(self, number: int) -> Locator:
        """A cell with its output."""
        return self._page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def code(self, number: int) -> Locator:
        """The text of a cell."""
        return self.cell(number).locator(".cm-content")

    def _enter(self, number: int) -> None:
        self.code(number).click()
        expect(self.code(number)).to_be_focused()

    def run(self, number: int) -> None:
        """Shift-Enter in a cell."""
        self._enter(number)
        self._page.keyboard.press("Shift+Enter")

    def output(self, number: int) -> Locator:
        """What is shown below a cell."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def shows(self, number: int, *texts: str) -> None:
        """Wait until each text is to be seen below a cell."""
        for text in texts:
            expect(self.output(number)).to_contain_text(text)

    def command(self, *keys: str) -> None:
        """Keys of the command mode: `i i` interrupts, `0 0` restarts."""
        self._page.keyboard.press("Escape")
        for key in keys:
            self._page.keyboard.press(key)

    def confirm(self) -> None:
        """Agree to what a dialog asks."""
        self._page.locator(".jp-Dialog .jp-mod-accept").click()

    def types(self, number: int, text: str) -> None:
        """Type into a cell."""
        self._enter(number)
        self._page.keyboard.type(text)

    def completes(self, whole: str, kind: str) -> None:
        """Complete what was typed, with the Tab key, from a list that says what each name is."""
        self._page.keyboard.press("Tab")
        entry = self._page.locator(".jp-Completer-item.jp-mod-active")
        expect(entry).to_contain_text(whole)
        expect(entry).to_contain_text(kind)
        self._page.keyboard.press("Enter")

    def answers(self, number: int, text: str) -> None:
        """Answer a cell that asks for input."""
        field = self.output(number).locator("input.jp-Stdin-input")
        field.fill(text)
        field.press("Enter")
