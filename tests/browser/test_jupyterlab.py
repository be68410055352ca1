"""A person with a notebook in JupyterLab."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.browser import Notebook
from support.jupyter_spec import ENDLESS_LOOP

# Each test may be the one that starts the server and the browser.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Open = Callable[..., Notebook]


@pytest.fixture
def notebook(
    browser: Browser, lab: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Opens a notebook with the given cells. What it looks like in the end is kept."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    name = request.node.name.removeprefix("test_")
    try:
        yield lambda *codes: Notebook(page, lab, folder, name, *codes)
    finally:
        screenshot = tmp_path / "screenshot.png"
        page.screenshot(path=screenshot)
        sys.stdout.write(f"screenshot: {screenshot}\n")
        page.close()


def test_cells_show_output_results_html_and_errors(notebook: Open) -> None:
    opened = notebook(
        "print('printed ' .. 1)\nreturn {6 * 7, name = 'answer'}",
        "display{html = '<b class=\"proof\">bold</b> and <i>italic</i>', text = 'plain'}",
        "local function fail()\n  error('on ' .. 'purpose')\nend\nfail()",
    )
    for number in range(3):
        opened.run(number)

    opened.shows(0, "printed 1", '{42, name = "answer"}')
    expect(opened.output(1).locator("b.proof")).to_have_text("bold")
    opened.shows(2, "LuaError: In[3]:2: on purpose", "stack traceback:", "fail")
    opened.is_idle()


def test_an_endless_loop_is_interrupted_and_the_variables_stay(notebook: Open) -> None:
    opened = notebook("kept = 'still here'", ENDLESS_LOOP, "return kept")
    opened.run(0)
    opened.run(1)
    opened.shows(1, "running")
    opened.is_busy()

    opened.command("i", "i")

    opened.shows(1, "Interrupted: interrupted at In[2]:1")
    opened.is_idle()
    opened.run(2)
    opened.shows(2, "still here")


def test_a_restart_forgets_the_variables_and_counts_anew(notebook: Open) -> None:
    opened = notebook("lost = (lost or 0) + 1 return lost", ENDLESS_LOOP)
    opened.run(0)
    opened.shows(0, "1")
    opened.run(0)
    opened.shows(0, "2")
    opened.run(1)
    opened.shows(1, "running")

    opened.command("0", "0")
    opened.confirm()
    opened.is_idle()

    opened.run(0)
    opened.shows(0, "[1]:", "1")
    opened.is_idle()


def test_the_tab_key_completes(notebook: Open) -> None:
    opened = notebook("")
    opened.types(0, "string.forma")
    opened.completes("format", "function")

    expect(opened.code(0)).to_have_text("string.format")


def test_a_script_reads_what_is_typed(notebook: Open) -> None:
    opened = notebook("io.write('na' .. 'me? ') return 'hello ' .. io.read()")
    opened.run(0)
    opened.shows(0, "name?")
    opened.answers(0, "somebody")

    opened.shows(0, "hello somebody")
