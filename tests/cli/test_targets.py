"""Which kernel a command means."""

import os
import uuid
from pathlib import Path

import pytest

from llmspell_cli import targets
from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.connection import ConnectionInfo, new_kernel_id, new_key, write_connection_file
from llmspell_kernel.errors import MisuseError, NotRunningError


@pytest.fixture(autouse=True)
def directories(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("LLMSPELL_RUNTIME_DIR", str(root / "run"))
    monkeypatch.setenv("LLMSPELL_STATE_DIR", str(root / "state"))
    return root


def _kernel(kernel_id: str, *, running: bool = True) -> str:
    """The files of a kernel, which this process stands for."""
    path = runtime_dir.connection_path(kernel_id)
    info = ConnectionInfo(
        shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5, key=new_key(), kernel_id=kernel_id
    )
    write_connection_file(path, info)
    pidfile.claim(runtime_dir.pid_path(kernel_id), lock_path=runtime_dir.lock_path(), connection_file=path)
    if not running:
        Path(runtime_dir.pid_path(kernel_id)).write_text(f"{os.getpid()}\n1\n{path}\n")
    return path


@pytest.mark.parametrize("text", ["work", "a", "kernel-01", "0_x", "a" * 63])
def test_a_name_has_one_uuid_for_ever(text: str) -> None:
    assert targets.kernel_id(text) == targets.kernel_id(text)
    assert uuid.UUID(targets.kernel_id(text)).version == 5
    assert targets.name_of(text) == text


def test_the_uuid_of_a_name_never_changes_between_versions() -> None:
    assert targets.kernel_id("work") == "3c536288-2f90-525b-8124-84fa683247aa"


@pytest.mark.parametrize("write", [str, str.upper, lambda text: text.replace("-", ""), lambda text: f"{{{text}}}"])
def test_a_uuid_in_any_spelling_is_itself(write: object) -> None:
    kernel_id = new_kernel_id()
    assert callable(write)

    assert targets.kernel_id(write(kernel_id)) == kernel_id
    assert targets.name_of(kernel_id) == ""


@pytest.mark.parametrize("text", ["", "Work", "-a", "a b", "a/b", "../x", "a" * 64, "é"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(MisuseError, match="expected a UUID, or a name of up to 63 characters"):
        targets.kernel_id(text)


def test_a_kernel_is_found_by_id_beginning_name_and_file() -> None:
    named, other = targets.kernel_id("work"), "ffffffff-0000-4000-8000-000000000000"
    paths = {named: _kernel(named), other: _kernel(other)}

    for text, kernel_id in (
        (named, named),
        (named[:4], named),
        ("work", named),
        ("ffff", other),
        (paths[other], other),
    ):
        found = targets.find(text)
        assert found.info.kernel_id == kernel_id
        assert found.connection_file == paths[kernel_id]
        assert found.entry is not None


def test_a_file_of_a_kernel_without_an_entry_will_do(tmp_path: Path) -> None:
    kernel_id = new_kernel_id()
    path = tmp_path / "mine.json"
    Path(_kernel(kernel_id)).rename(path)

    found = targets.find(str(path))

    assert found.info.kernel_id == kernel_id
    assert found.entry is None


def test_the_only_kernel_need_not_be_named() -> None:
    kernel_id = new_kernel_id()
    _kernel(kernel_id)
    _kernel(new_kernel_id(), running=False)

    assert targets.find(None).info.kernel_id == kernel_id


@pytest.mark.parametrize(
    ("case", "kernels", "text", "error", "message"),
    [
        ("none runs", [], None, NotRunningError, "no kernel is running: start one"),
        ("several run", ["aaaa", "aabb"], None, MisuseError, "expected one running kernel, found 2: say which of"),
        ("nobody of that name", ["aaaa"], "nobody", NotRunningError, "there is no kernel nobody"),
        ("no beginning", ["aaaa"], "bbbb", NotRunningError, "there is no kernel bbbb"),
        ("several beginnings", ["aaaabb", "aaaacc"], "aaaa", MisuseError, "aaaa begins the ids of 2 kernels"),
        ("too short a beginning", ["aaaa"], "aaa", NotRunningError, "there is no kernel aaa"),
        ("an address", [], "127.0.0.1:9555", MisuseError, "obeys only who has its key"),
        ("no such file", [], "./none.json", NotRunningError, "there is no connection file"),
    ],
)
def test_what_means_no_kernel_or_several_says_so(
    case: str, kernels: list[str], text: str | None, error: type[Exception], message: str
) -> None:
    for beginning in kernels:
        _kernel(beginning + new_kernel_id()[len(beginning) :])

    with pytest.raises(error, match=message):
        targets.find(text)
    assert case


def test_a_kernel_that_died_is_not_running() -> None:
    kernel_id = new_kernel_id()
    _kernel(kernel_id, running=False)

    with pytest.raises(NotRunningError, match="is gone without having tidied up"):
        targets.find(kernel_id)
