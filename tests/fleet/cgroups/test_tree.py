"""The fleet's directories: made where the machine lets us, found again by who comes later, gone at the end."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell_fleet.cgroups import group
from llmspell_fleet.cgroups.hierarchy import mounted
from llmspell_fleet.cgroups.kernel import kernel_folder
from llmspell_fleet.cgroups.tree import OWN_LEAF, FleetCgroups, fleet_folder, remove_recorded
from support.groups import ALL, above, existing, laid_out, needs_cgroups, version_2
from support.homes import wait_until
from support.kernels import READY_S, short_folder

KERNEL = "00000000-1111-4000-8000-000000000001"
MIB = 1024 * 1024


@pytest.fixture
def runtime() -> Iterator[str]:
    with short_folder() as folder:
        yield str(folder)


@pytest.fixture
def real(runtime: str) -> Iterator[FleetCgroups]:
    """Those of this machine."""
    needs_cgroups("memory", "cpu", "pids")
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups")
    yield cgroups
    cgroups.sweep([])
    cgroups.close()
    assert not existing(part.directory for part in cgroups.parts.values())


def sleeper_in(*directories: str) -> "subprocess.Popen[bytes]":
    sleeper = subprocess.Popen(["sleep", "1000"])
    for directory in directories:
        group.write(directory, "cgroup.procs", str(sleeper.pid))
    return sleeper


# --- real ones


def test_what_a_kernel_is_bound_to_is_what_the_system_says(real: FleetCgroups) -> None:
    made = real.make("t", KERNEL, ALL)
    assert made is not None
    made.bound_memory(100 * MIB)
    made.bound_cpu(50)
    made.bound_processes(7)
    versions = made.bounds
    assert made.memory_bound() == 100 * MIB
    assert group.cpu_bound(versions["cpu"][1], versions["cpu"][0]) == 50
    assert group.process_bound(versions["pids"][1]) == 7

    made.bound_memory(200 * MIB)
    made.bound_memory(50 * MIB)
    assert made.memory_bound() == 50 * MIB
    made.bound_memory(0)
    made.bound_cpu(0)
    made.bound_processes(0)
    assert (made.memory_bound(), group.process_bound(versions["pids"][1])) == (0, 0)
    assert group.cpu_bound(versions["cpu"][1], versions["cpu"][0]) == 0


def test_a_process_in_it_is_found_by_its_pid_and_killed_with_it(real: FleetCgroups) -> None:
    made = real.make("t", KERNEL, ["memory", "pids"])
    assert made is not None
    sleeper = sleeper_in(*made.paths)
    try:
        found = real.find(sleeper.pid, KERNEL)
        assert found is not None
        assert set(found.paths) == set(made.paths)
        assert found.bounds == made.bounds
        assert real.find(sleeper.pid, "ffffffff-1111-4000-8000-000000000001") is None
        assert found.processes() == [sleeper.pid]
        assert found.kill()
        assert sleeper.wait(READY_S) == -9
        assert not found.kill()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert made.remove()


def test_a_tree_of_processes_that_forks_on_is_killed_whole_by_version_1(real: FleetCgroups) -> None:
    made = real.make("t", KERNEL, ["pids"])
    assert made is not None
    made.bound_processes(60)
    bomb = subprocess.Popen(
        ["sh", "-c", "read x; while :; do sh -c 'while :; do sleep 9 & done' & done"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert bomb.stdin is not None
    directory = made.bounds["pids"][1]
    group.write(directory, "cgroup.procs", str(bomb.pid))
    bomb.stdin.write(b"\n")
    bomb.stdin.close()
    wait_until(lambda: len(group.processes(directory)) > 20, "the processes to be many")

    assert group.kill_cgroup(directory)
    bomb.wait(READY_S)
    wait_until(lambda: not group.processes(directory), "the processes to be gone")


def test_memory_that_is_held_is_not_taken_away_by_version_1(real: FleetCgroups) -> None:
    made = real.make("t", KERNEL, ["memory"])
    assert made is not None
    if made.bounds["memory"][0] != 1:
        pytest.skip("memory is version 2's here")
    holder = subprocess.Popen(
        [
            "python3",
            "-c",
            "import sys; sys.stdin.readline(); x = b'x' * 40_000_000; print(1, flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        made.move(holder.pid, made.bounds["memory"][1])
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        assert made.memory_used() > 40_000_000
        with pytest.raises(OSError, match="busy"):
            made.bound_memory(10 * MIB)
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()


def test_all_kernels_of_a_tenant_are_bounded_together(real: FleetCgroups) -> None:
    real.bound_tenant("t", memory_bytes=64 * MIB, cpu_percent=80)
    made = real.make("t", KERNEL, ["memory", "cpu"])
    assert made is not None
    for resource, read in (("memory", group.memory_bound), ("cpu", group.cpu_bound)):
        version, directory = made.bounds[resource]  # type: ignore[index]
        assert read(above(directory), version) == {"memory": 64 * MIB, "cpu": 80}[resource]
    real.bound_tenant("t", memory_bytes=0, cpu_percent=0)
    assert group.memory_bound(above(made.bounds["memory"][1]), made.bounds["memory"][0]) == 0
    assert real.tenant_memory("t") >= 0
    assert real.tenant_memory("nobody") == 0


def test_what_a_killed_controller_left_is_swept_by_the_next_but_for_what_lives(
    real: FleetCgroups, runtime: str
) -> None:
    other = KERNEL.replace("1111", "2222")
    kept, left = real.make("t", KERNEL, ["memory"]), real.make("t", other, ["memory"])
    assert kept is not None
    assert left is not None
    stragglers = [sleeper_in(*left.paths), sleeper_in(*kept.paths)]
    try:
        later = FleetCgroups(runtime, f"{runtime}/cgroups")
        later.sweep([KERNEL])
        assert stragglers[0].wait(READY_S) == -9
        assert stragglers[1].poll() is None
        later.sweep([KERNEL])  # once its processes are reaped
        assert not existing(left.paths)
        assert existing(kept.paths) == list(kept.paths)
    finally:
        for straggler in stragglers:
            straggler.kill()
            straggler.wait()


def test_a_fleet_that_is_gone_leaves_nothing_once_its_files_are_removed(real: FleetCgroups, runtime: str) -> None:
    made = real.make("t", KERNEL, ["memory"])
    assert made is not None
    remove_recorded(f"{runtime}/cgroups", runtime)
    assert not existing(made.paths)
    assert not Path(runtime, "cgroups").exists()


def test_two_fleets_never_share_a_directory(runtime: str) -> None:
    assert fleet_folder(runtime) != fleet_folder(runtime + "/other")
    assert fleet_folder(runtime) == fleet_folder(runtime + "/.")


def test_a_real_cgroup_of_version_2_is_killed_in_one_step() -> None:
    mounts = [hierarchy.mount for hierarchy in mounted() if hierarchy.version == 2]
    if not mounts or os.geteuid() != 0:
        pytest.skip("there is no cgroup of version 2 that we may write to")
    directory = Path(mounts[0], f"llmspell-test-{os.getpid()}")
    directory.mkdir()
    sleepers = [sleeper_in(str(directory)) for _ in range(3)]
    try:
        assert sorted(group.processes(str(directory))) == sorted(sleeper.pid for sleeper in sleepers)
        assert group.kill_cgroup(str(directory))
        assert [sleeper.wait(READY_S) for sleeper in sleepers] == [-9, -9, -9]
        assert not group.kill_cgroup(str(directory))
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        wait_until(lambda: group.remove(str(directory)), "the directory to be gone")


# --- directories that are laid out as those of version 2


def written(path: Path) -> str:
    return path.read_text()


def test_version_2_by_its_layout_bounds_in_one_directory(tmp_path: Path, runtime: str) -> None:
    unit = laid_out(tmp_path / "unit")
    laid_out(unit / fleet_folder(runtime))
    laid_out(unit / fleet_folder(runtime) / "t-t")
    folder = laid_out(unit / fleet_folder(runtime) / "t-t" / kernel_folder(KERNEL))
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=version_2(tmp_path), own="0::/unit\n")

    assert cgroups.resources == ALL
    assert cgroups.missing == {}
    assert written(unit / "cgroup.subtree_control") == "+memory +cpu +pids"
    made = cgroups.make("t", KERNEL, ALL)
    assert made is not None
    assert made.paths == (str(folder),)
    made.bound_memory(5 * MIB)
    made.bound_cpu(25)
    made.bound_processes(9)
    assert written(folder / "memory.max") == str(5 * MIB)
    assert written(folder / "memory.swap.max") == "0"
    assert written(folder / "cpu.max") == "25000 100000"
    assert written(folder / "pids.max") == "9"
    state = made.memory_state()
    assert (state.bound, state.peak, state.kills) == (5 * MIB, 8192, 1)
    made.bound_memory(0)
    made.bound_cpu(0)
    assert (written(folder / "memory.max"), written(folder / "memory.swap.max")) == ("max", "max")
    assert written(folder / "cpu.max") == "max 100000"
    (folder / "memory.peak").unlink()
    assert made.memory_state().peak is None
    (folder / "memory.swap.max").unlink()
    made.bound_memory(MIB)


def test_version_2_by_its_layout_moves_a_controller_that_is_alone_to_a_leaf(tmp_path: Path, runtime: str) -> None:
    unit = laid_out(tmp_path / "unit", processes=f"{os.getpid()}\n")
    laid_out(unit / OWN_LEAF)
    laid_out(unit / fleet_folder(runtime))
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=version_2(tmp_path), own="0::/unit\n")
    assert written(unit / OWN_LEAF / "cgroup.procs") == str(os.getpid())
    assert cgroups.resources == ALL


def test_version_2_by_its_layout_takes_the_unit_above_the_leaf_for_the_next_controller(
    tmp_path: Path, runtime: str
) -> None:
    unit = laid_out(tmp_path / "unit")
    laid_out(unit / fleet_folder(runtime))
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=version_2(tmp_path), own=f"0::/unit/{OWN_LEAF}\n")
    assert cgroups.parts["memory"].directory == str(unit / fleet_folder(runtime))


def test_version_2_by_its_layout_moves_nobody_elses_processes_and_says_what_to_do(tmp_path: Path, runtime: str) -> None:
    unit = laid_out(tmp_path / "unit", processes=f"{os.getpid()}\n1\n")
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=version_2(tmp_path), own="0::/unit\n")
    assert cgroups.resources == frozenset()
    assert "Delegate=yes" in cgroups.missing["memory"]
    assert written(unit / "cgroup.procs") == f"{os.getpid()}\n1\n"


def test_version_2_by_its_layout_lets_the_root_have_processes(tmp_path: Path, runtime: str) -> None:
    laid_out(tmp_path / "all", processes="1\n2\n", is_root=True)
    laid_out(tmp_path / "all" / fleet_folder(runtime))
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=version_2(tmp_path / "all"), own="0::/\n")
    assert cgroups.resources == ALL


def test_version_2_by_its_layout_without_a_controller_says_which_is_missing(tmp_path: Path, runtime: str) -> None:
    laid_out(tmp_path / "unit", controllers="cpu pids")
    laid_out(tmp_path / "unit" / fleet_folder(runtime), controllers="cpu pids")
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=version_2(tmp_path), own="0::/unit\n")
    assert cgroups.resources == {"cpu", "pids"}
    assert cgroups.missing.keys() == {"memory"}


def test_a_directory_that_cannot_be_written_is_missing_with_the_reason(runtime: str) -> None:
    # /proc takes no directories from anybody.
    cgroups = FleetCgroups(runtime, f"{runtime}/cgroups", hierarchies=[*version_2(Path("/proc"))], own="0::/\n")
    assert cgroups.make("t", KERNEL, ALL) is None
    assert cgroups.resources == frozenset()
