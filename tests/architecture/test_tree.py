"""The shape of the tree, as ARCHITECTURE.md and CONTRIBUTING.md state it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.repository import PACKAGES, ROOT, project_files

LONGEST_MODULE = 400
LONGEST_CLASS = 250

SOURCES = [file for file in project_files() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in PACKAGES]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("folder", PACKAGES)
def test_each_part_holds_one_package_and_a_readme_only(folder: str) -> None:
    found = {file.relative_to(ROOT / folder).parts[0] for file in project_files() if file.is_relative_to(ROOT / folder)}

    assert found == {"README.md", PACKAGES[folder]}


@pytest.mark.parametrize("package", [f"{folder}/{package}" for folder, package in PACKAGES.items()])
def test_each_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_a_module_has_one_job(source: Path) -> None:
    lines = len(source.read_text().splitlines())

    assert lines <= LONGEST_MODULE, f"{_name(source)} has {lines} lines: two jobs in one room?"


def _classes(source: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ClassDef))


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_a_class_keeps_the_state_of_one_thing(source: Path) -> None:
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in _classes(source)}

    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST_CLASS}


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_a_module_says_what_lives_in_it(source: Path) -> None:
    assert ast.get_docstring(ast.parse(source.read_text()))


def test_an_init_file_holds_a_docstring_and_exports_only() -> None:
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    wrong = {
        _name(source): ast.unparse(node).splitlines()[0]
        for source in SOURCES
        if source.name == "__init__.py"
        for node in ast.parse(source.read_text()).body
        if not isinstance(node, allowed)
    }

    assert not wrong
