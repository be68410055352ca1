"""Documents that stay true, and files that do not point at the machine on which they were made."""

import re
from pathlib import Path

import pytest

from support.repository import PACKAGES, ROOT, project_files, text_of

FILES = project_files()
DOCUMENTS = [file for file in FILES if file.suffix == ".md"]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"(?:^ {4}|`)make ((?:[a-z-]+ ?)+)", re.MULTILINE)
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
FOREIGN = {
    "a path of one machine": re.compile(r"/(?:root|work|opt|Users|home/[a-z]+)/\w"),
    "a package registry": re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)"),
}


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    targets = LINK.findall(FENCED.sub("", document.read_text()))
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]

    assert not [target for target in local if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    known = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = {target for words in MAKE.findall(document.read_text()) for target in words.split()}

    assert named <= known


@pytest.mark.parametrize("folder", ["kernel", "fleet"])
def test_the_code_map_names_every_room_of(folder: str) -> None:
    heading = f"### `{folder}/{PACKAGES[folder]}`"
    code_map = (ROOT / "ARCHITECTURE.md").read_text().partition(heading)[2].partition("\n#")[0]
    package = ROOT / folder / PACKAGES[folder]
    rooms = {file.relative_to(package).parts[0] for file in FILES if file.is_relative_to(package)}
    rooms -= {"__init__.py", "py.typed"}

    named = set(re.findall(r"`([^`]+?)/?`", re.sub(r"\|[^|]*\|$", "|", code_map, flags=re.MULTILINE)))
    assert {name.partition("/")[0] for name in named} == rooms
    assert not {name for name in named if not (package / name).exists()}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_holds(what: str) -> None:
    found = {
        f"{_name(file)}: {match.group()}"
        for file in FILES
        if (match := FOREIGN[what].search(text_of(file))) is not None
    }

    assert not found
