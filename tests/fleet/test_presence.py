"""Whether a fleet runs in some directories, as its files tell."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from llmspell_fleet import presence
from llmspell_fleet.paths import Address, FleetPaths, make_paths
from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.connection import new_kernel_id
from llmspell_kernel.errors import RefusedError
from support.kernels import short_folder


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetPaths]:
    with short_folder() as folder:
        for name in ("RUNTIME", "STATE", "LOG"):
            monkeypatch.setenv(f"LLMSPELL_{name}_DIR", str(folder / name.lower()))
        yield make_paths()


def _claim(paths: FleetPaths) -> pidfile.PidRecord:
    """This process stands for the controller."""
    return pidfile.claim(paths.pid_file, lock_path=runtime_dir.lock_path(), connection_file=paths.address_file)


def _write_address(paths: FleetPaths, **changes: object) -> Address:
    record = pidfile.own_record()
    address = Address(
        pid=record.pid, start_time=record.start_time, url="http://127.0.0.1:9550", socket=paths.socket, version="1"
    )
    path = Path(paths.address_file)
    path.write_text(json.dumps({**msgspec.to_builtins(address), **changes}))
    path.chmod(0o600)
    return address


def _left_by_the_dead(path: str) -> None:
    Path(path).write_text(f"{os.getpid()}\n1\n\n")
    Path(path).chmod(0o600)


def test_where_there_are_no_files_no_fleet_runs(paths: FleetPaths) -> None:
    assert presence.find(paths) is None
    assert presence.kernels(paths) == []
    presence.require_none(paths)


def test_where_there_are_no_directories_no_fleet_runs_and_none_are_made(tmp_path: Path) -> None:
    paths = FleetPaths(*(str(tmp_path / name) for name in ("run", "state", "logs")))

    assert presence.find(paths) is None
    assert presence.kernels(paths) == []
    assert not presence.remove_leftovers(paths)
    assert list(tmp_path.iterdir()) == []


def test_a_fleet_that_serves_has_an_address(paths: FleetPaths) -> None:
    record, address = _claim(paths), _write_address(paths)

    found = presence.find(paths)

    assert found is not None
    assert (found.record.pid, found.address) == (record.pid, address)
    assert found.description == f"process {os.getpid()} on http://127.0.0.1:9550"


def test_a_second_fleet_is_refused_with_the_first_ones_pid_and_address(paths: FleetPaths) -> None:
    _claim(paths)
    _write_address(paths)

    with pytest.raises(RefusedError, match=rf"process {os.getpid()} on http://127.0.0.1:9550; stop it with"):
        presence.require_none(paths)


@pytest.mark.parametrize(
    ("case", "changes"),
    [("not written yet", None), ("of a predecessor that died", {"pid": 1}), ("of a reused pid", {"start_time": 1})],
)
def test_a_fleet_whose_address_is_not_its_own_has_none(
    paths: FleetPaths, case: str, changes: dict[str, object] | None
) -> None:
    _claim(paths)
    if changes is not None:
        _write_address(paths, **changes)

    found = presence.find(paths)

    assert found is not None, case
    assert found.address is None
    assert "does not serve at this moment" in found.description


def test_a_fleet_whose_pid_file_was_damaged_is_found_by_its_address(paths: FleetPaths) -> None:
    record = _claim(paths)
    address = _write_address(paths)
    Path(paths.pid_file).write_text("garbage")

    assert presence.find(paths) == presence.Presence(record, address)


def test_a_damaged_pid_file_of_a_fleet_that_died_is_in_nobody_s_way(paths: FleetPaths) -> None:
    _claim(paths)
    Path(paths.pid_file).write_text("garbage")
    assert presence.find(paths) is None

    _write_address(paths, start_time=1)
    presence.require_none(paths)


def test_a_fleet_that_died_does_not_run(paths: FleetPaths) -> None:
    _left_by_the_dead(paths.pid_file)
    _write_address(paths)

    assert presence.find(paths) is None


_DAMAGED = ["", "garbage", "{}", '{"pid": 1}', '{"url": "\udcff"}', '{"x":' + "[" * 8000, "[" * 9000]


@pytest.mark.parametrize("content", _DAMAGED)
@pytest.mark.parametrize("pid_file", ["whole", "damaged too"])
def test_a_fleet_whose_address_file_was_damaged_is_found_by_its_socket(
    paths: FleetPaths, content: str, pid_file: str
) -> None:
    record = _claim(paths)
    _write_address(paths)
    Path(paths.address_file).write_bytes(os.fsencode(content))
    if pid_file != "whole":
        Path(paths.pid_file).write_bytes(os.fsencode(content))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(paths.socket)
        server.listen()
        found = presence.find(paths)
        assert found is not None
        assert (found.record.pid, found.record.start_time) == (record.pid, record.start_time)
        assert found.address is not None
        assert found.address.socket == paths.socket
        assert found.description == f"process {os.getpid()} on unix:{paths.socket}"
        with pytest.raises(RefusedError, match="already running"):
            presence.require_none(paths)


@pytest.mark.parametrize("content", _DAMAGED)
def test_a_damaged_address_file_of_a_fleet_that_died_is_in_nobody_s_way(paths: FleetPaths, content: str) -> None:
    _left_by_the_dead(paths.pid_file)
    _write_address(paths)
    Path(paths.address_file).write_bytes(os.fsencode(content))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(paths.socket)

    presence.require_none(paths)
    assert presence.remove_leftovers(paths)
    assert list(Path(paths.runtime).iterdir()) == []


def test_a_fleet_that_does_not_serve_and_whose_address_file_was_damaged_has_no_address(paths: FleetPaths) -> None:
    _claim(paths)
    _write_address(paths, url=7)

    found = presence.find(paths)

    assert found is not None
    assert found.address is None


def test_an_address_file_that_others_may_write_is_not_believed(paths: FleetPaths) -> None:
    _claim(paths)
    _write_address(paths)
    Path(paths.address_file).chmod(0o666)

    with pytest.raises(RefusedError, match="has mode 0666"):
        presence.find(paths)


def test_what_a_controller_that_died_left_is_removed(paths: FleetPaths) -> None:
    _left_by_the_dead(paths.pid_file)
    _write_address(paths)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(paths.socket)

    assert presence.remove_leftovers(paths)

    assert list(Path(paths.runtime).iterdir()) == []
    assert not presence.remove_leftovers(paths)


def test_the_folders_of_kernels_that_died_are_removed_and_others_stay(paths: FleetPaths) -> None:
    dead, alone = new_kernel_id(), new_kernel_id()
    os.mkfifo(Path(runtime_dir.socket_dir(dead)) / "output", 0o600)
    other = Path(runtime_dir.socket_dir(alone))
    (other / "s-1").touch()

    assert presence.remove_leftovers(paths)

    assert list((Path(paths.runtime) / "k").iterdir()) == [other]


def test_what_a_kernel_that_lives_needs_stays(paths: FleetPaths) -> None:
    kernel = new_kernel_id()
    pidfile.claim(runtime_dir.pid_path(kernel), lock_path=runtime_dir.lock_path())
    os.mkfifo(Path(runtime_dir.socket_dir(kernel)) / "output", 0o600)
    _left_by_the_dead(paths.pid_file)

    assert not presence.remove_leftovers(paths)
    assert Path(paths.pid_file).exists()


def test_the_files_of_a_fleet_that_runs_stay(paths: FleetPaths) -> None:
    _claim(paths)
    _write_address(paths)

    assert not presence.remove_leftovers(paths)
    assert presence.find(paths) is not None


def test_the_fleet_s_kernels_are_those_whose_output_it_collects(paths: FleetPaths) -> None:
    supervised, alone, plain = new_kernel_id(), new_kernel_id(), new_kernel_id()
    for kernel in (supervised, alone, plain):
        pidfile.claim(runtime_dir.pid_path(kernel), lock_path=runtime_dir.lock_path())
    folder = Path(runtime_dir.socket_dir(supervised))
    os.mkfifo(folder / "output", 0o600)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(Path(runtime_dir.socket_dir(alone)) / "s-1"))

    (found,) = presence.kernels(paths)

    assert (found.kernel_id, found.pid, found.running) == (supervised, os.getpid(), True)
