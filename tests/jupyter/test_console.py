"""`jupyter console`, typed into as a person would."""

import os
import signal
from collections.abc import Iterator

import pytest
from jupyter_client.manager import KernelManager

from support.console import CTRL_C, ENTER, TAB, Console, open_console
from support.jupyter_spec import ENDLESS_LOOP, KERNEL, connected, execute

pytestmark = pytest.mark.jupyter


@pytest.fixture
def console(kernel: KernelManager) -> Iterator[Console]:
    with open_console("--existing", kernel.connection_file) as console:
        yield console


def test_the_banner_says_what_it_is_attached_to(console: Console) -> None:
    console.shows("Jupyter console", "llmspell", "Lua 5.4", "In [1]: ")


def test_expressions_results_and_output(console: Console) -> None:
    console.runs(1, "6*7")
    console.shows("Out[1]: ", "42")
    console.runs(2, "print('printed ' .. 1)")
    console.shows("printed 1")
    console.runs(3, "x = 5 return x, {1, 2}")
    console.shows("Out[3]: ", "{1, 2}")


def test_an_error_shows_its_line_and_a_traceback(console: Console) -> None:
    console.runs(1, "function fail() error('on purpose') end")
    console.runs(2, "fail()")
    console.shows("LuaError: In[1]:1: on purpose", "stack traceback:", "In[1]:1: in function 'fail'")


def test_unfinished_code_is_continued_until_it_is_complete(console: Console) -> None:
    console.runs(1, "for i = 1, 2 do")
    console.shows("...: ")
    console.types("print('round ' .. i)" + ENTER)
    console.types("end" + ENTER)
    console.shows("round 1", "round 2", "In [2]: ")


def test_the_tab_key_completes(console: Console) -> None:
    console.shows("In [1]: ")
    console.types("string.forma" + TAB)
    console.shows("string.format")
    console.types("('%02d', 7)" + ENTER)
    console.shows("Out[1]: ", "07")


def test_a_question_mark_shows_what_is_known(console: Console) -> None:
    console.runs(1, "string.rep?")
    console.shows("string.rep(", "string")


def test_a_script_reads_what_is_typed(console: Console) -> None:
    console.runs(1, "io.write('na' .. 'me? ') return 'hello ' .. io.read()")
    console.shows("name? ")
    console.types("somebody" + ENTER)
    console.shows("Out[1]: ", "hello somebody")


def test_a_signal_to_the_kernel_interrupts_a_loop_and_the_console_goes_on(
    console: Console, kernel: KernelManager
) -> None:
    # Ctrl-C in a console with --existing says that it cannot interrupt kernels which it did not start.
    console.runs(1, ENDLESS_LOOP)
    console.shows("running")
    os.kill(kernel.provisioner.process.pid, signal.SIGINT)
    console.shows("Interrupted: interrupted at In[1]:1", "In [2]: ")


def test_control_c_interrupts_a_loop_of_the_consoles_own_kernel() -> None:
    with open_console("--kernel", KERNEL) as console:
        console.hears()
        console.runs(1, ENDLESS_LOOP)
        console.shows("running")
        console.types(CTRL_C)
        console.shows("Interrupted: interrupted at In[1]:1")
        console.runs(2, "6*7")
        console.shows("Out[2]: ", "42")
        console.leaves(3)


def test_leaving_the_console_leaves_the_kernel_with_its_variables(console: Console, kernel: KernelManager) -> None:
    console.runs(1, "kept = 'still here'")
    console.leaves(2)

    with connected(kernel) as client:
        assert execute(client, "return kept")[1].result == "still here"
