"""Where cgroups are is read from proc(5), for every way in which a machine can have them."""

import pytest

from llmspell_fleet.cgroups.hierarchy import (
    Hierarchy,
    directories,
    membership,
    mounted,
    parse_membership,
    parse_mounts,
)

PURE_2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
VERSION_1 = (
    "35 30 0:31 / /sys/fs/cgroup/memory rw,relatime shared:8 - cgroup cgroup rw,memory\n"
    "36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "37 30 0:33 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
)
HYBRID = VERSION_1 + "38 30 0:34 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
CONTAINER = "40 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
ODD = "41 23 0:26 / /mnt/with\\040space rw - cgroup2 cgroup rw\n42 23 0:9 / / rw - ext4 /dev/root rw\nnonsense\n"

MEMBER = "9:memory:/a/b\n8:cpu,cpuacct:/c\n1:name=systemd:/s\n0::/u\n"


@pytest.mark.parametrize(
    ("mounts", "cgroup", "expected"),
    [
        (PURE_2, "0::/user.slice/x\n", [(2, "/sys/fs/cgroup/user.slice/x")]),
        (PURE_2, "0::/\n", [(2, "/sys/fs/cgroup")]),
        (PURE_2, "", []),
        (
            HYBRID,
            MEMBER,
            [
                (1, "/sys/fs/cgroup/memory/a/b"),
                (1, "/sys/fs/cgroup/cpu,cpuacct/c"),
                (1, "/sys/fs/cgroup/systemd/s"),
                (2, "/sys/fs/cgroup/unified/u"),
            ],
        ),
        (CONTAINER, "0::/docker/abc/k\n", [(2, "/sys/fs/cgroup/k")]),
        (CONTAINER, "0::/docker/abcdef\n", []),
        (CONTAINER, "0::/elsewhere\n", []),
        (PURE_2, "0::/../outside\n", []),
        (ODD, "0::/x:y\n", [(2, "/mnt/with space/x:y")]),
        ("", MEMBER, []),
    ],
)
def test_a_process_is_found_in_each_hierarchy_that_shows_it(
    mounts: str, cgroup: str, expected: list[tuple[int, str]]
) -> None:
    assert [(hierarchy.version, path) for hierarchy, path in directories(parse_mounts(mounts), cgroup)] == expected


def test_a_hierarchy_that_is_mounted_twice_is_one() -> None:
    again = PURE_2.replace("/sys/fs/cgroup ", "/elsewhere ")
    assert parse_mounts(PURE_2 + again) == [Hierarchy(2, frozenset(), "/sys/fs/cgroup", "/")]


def test_controllers_are_those_of_the_mount() -> None:
    assert [hierarchy.controllers for hierarchy in parse_mounts(VERSION_1)][:2] == [{"memory"}, {"cpu", "cpuacct"}]


def test_a_cgroup_may_hold_a_colon() -> None:
    assert parse_membership("0::/a:b\nbroken\n") == [("", "/a:b")]


def test_this_machine_is_read_without_a_fault() -> None:
    assert all(path.startswith("/") for _hierarchy, path in directories(mounted(), membership("self")))
    assert membership(2**22 + 3) == ""
