"""Jupyter's own conformance suite, with every sample filled in. A check that it skips fails here."""

import unittest
from collections.abc import Iterator

import jupyter_kernel_test as suite
import pytest

from support.jupyter_spec import KERNEL

pytestmark = pytest.mark.jupyter


class Checks(suite.KernelTests):
    __test__ = False  # run below, one by one

    kernel_name = KERNEL
    language_name = "lua"
    file_extension = ".lua"
    code_hello_world = "print('hello, world')"
    code_stderr = "io.stderr:write('from stderr')"
    completion_samples = (
        {"text": "string.fo", "matches": ["format"]},
        {"text": "utf8.c", "matches": ["char", "charpattern", "codepoint", "codes"]},
        {"text": "local width, height = 1, 2 return wid", "matches": ["width"]},
        {"text": "('x'):upp", "matches": ["upper"]},
        {"text": "repe", "matches": ["repeat"]},
        {"text": "local unknown = {} return unknown.x", "matches": []},
    )
    complete_code_samples = (
        "1",
        "return 1",
        "for i = 1, 3 do print(i) end",
        "-- a remark",
        "x = [[ 1\n2 ]]",
        "print?",
        "",
    )
    incomplete_code_samples = (
        "for i = 1, 3 do",
        "function f()",
        "x = [[ 1",
        "print(",
        "if x then y() else",
        "return {",
    )
    invalid_code_samples = ("end", "x = = 1", "1 2", "for do", "'open", "goto nowhere")
    code_page_something = "string.format?"
    code_generate_error = "error('on purpose')"
    code_execute_result = (
        {"code": "6*7", "result": "42"},
        {"code": "return 'four', 4", "result": "four\t4"},
        {"code": "{1, 2, name = 'three'}", "result": '{1, 2, name = "three"}'},
    )
    code_display_data = (
        {"code": "display{html = '<b>bold</b>'}", "mime": "text/html"},
        {"code": "display{png = '\\137PNG'}", "mime": "image/png"},
        {"code": "display{svg = '<svg/>'}", "mime": "image/svg+xml"},
        {"code": "display{json = {1, 2}}", "mime": "application/json"},
        {"code": "display(12)", "mime": "text/plain"},
    )
    code_history_pattern = "6?7"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "string.format"
    code_clear_output = "clear_output()"


class WelcomeChecks(suite.IopubWelcomeTests):
    __test__ = False

    kernel_name = KERNEL
    support_iopub_welcome = True


def _names(checks: type[unittest.TestCase]) -> list[str]:
    return unittest.TestLoader().getTestCaseNames(checks)


def _passes(check: unittest.TestCase) -> None:
    result = unittest.TestResult()
    check.run(result)

    assert not result.skipped
    problems = "\n".join(trace for _, trace in (*result.failures, *result.errors))
    assert result.wasSuccessful(), problems


@pytest.fixture(scope="module")
def general_kernel() -> Iterator[None]:
    Checks.setUpClass()
    yield
    Checks.tearDownClass()


@pytest.fixture(scope="module")
def welcoming_kernel() -> Iterator[None]:
    WelcomeChecks.setUpClass()
    yield
    WelcomeChecks.tearDownClass()


@pytest.mark.parametrize("name", _names(Checks))
def test_the_kernel_conforms(name: str, general_kernel: None) -> None:
    _passes(Checks(name))


@pytest.mark.parametrize("name", _names(WelcomeChecks))
def test_the_kernel_welcomes_a_subscriber(name: str, welcoming_kernel: None) -> None:
    _passes(WelcomeChecks(name))


@pytest.mark.parametrize("checks", [Checks, WelcomeChecks])
def test_every_sample_of_the_suite_is_filled_in(checks: type[unittest.TestCase]) -> None:
    theirs = vars(checks.__mro__[1]).items()
    samples = {name for name, value in theirs if value in ("", [], (), False) and not name.startswith("_")}

    assert samples
    assert samples <= vars(checks).keys()
    assert all(getattr(checks, name) for name in samples)
