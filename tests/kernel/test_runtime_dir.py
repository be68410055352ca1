"""Where a kernel's files live."""

import os
from pathlib import Path

import pytest

from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.connection import new_kernel_id
from llmspell_kernel.errors import RefusedError

HOME = "/people/ada"


@pytest.mark.parametrize(
    ("case", "environ", "uid", "path"),
    [
        ("what was said", {"LLMSPELL_RUNTIME_DIR": "/r"}, 0, "/r"),
        ("what was said, before the session's", {"LLMSPELL_RUNTIME_DIR": "/r", "XDG_RUNTIME_DIR": "/x"}, 7, "/r"),
        ("root's", {"XDG_RUNTIME_DIR": "/x"}, 0, "/run/llmspell"),
        ("the session's", {"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/llmspell"),
        ("the home's", {}, 7, f"{HOME}/.llmspell/run"),
        (
            "an empty variable says nothing",
            {"LLMSPELL_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": ""},
            7,
            f"{HOME}/.llmspell/run",
        ),
    ],
)
def test_the_runtime_directory_is(case: str, environ: dict[str, str], uid: int, path: str) -> None:
    assert runtime_dir.choose_runtime_dir(environ, uid=uid, home=HOME) == path, case


@pytest.mark.parametrize(
    ("case", "environ", "uid", "state", "logs", "config"),
    [
        ("root's", {}, 0, "/var/lib/llmspell", "/var/log/llmspell", "/etc/llmspell"),
        (
            "a user's",
            {},
            7,
            f"{HOME}/.local/share/llmspell",
            f"{HOME}/.local/share/llmspell/logs",
            f"{HOME}/.config/llmspell",
        ),
        ("moved state takes the logs along", {"LLMSPELL_STATE_DIR": "/s"}, 0, "/s", "/s/logs", "/etc/llmspell"),
        (
            "each moved",
            {"LLMSPELL_STATE_DIR": "/s", "LLMSPELL_LOG_DIR": "/l", "LLMSPELL_CONFIG_DIR": "/c"},
            0,
            "/s",
            "/l",
            "/c",
        ),
    ],
)
def test_state_logs_and_configuration_are(
    case: str, environ: dict[str, str], uid: int, state: str, logs: str, config: str
) -> None:
    assert runtime_dir.choose_state_dir(environ, uid=uid, home=HOME) == state, case
    assert runtime_dir.choose_log_dir(environ, uid=uid, home=HOME) == logs, case
    assert runtime_dir.choose_config_dir(environ, uid=uid, home=HOME) == config, case


def test_a_directory_too_long_for_sockets_is_refused_with_the_reason() -> None:
    longest = "/" + "r" * (runtime_dir.LONGEST_RUNTIME_DIR - 1)

    assert runtime_dir.choose_runtime_dir({"LLMSPELL_RUNTIME_DIR": longest}, uid=7, home=HOME) == longest
    with pytest.raises(RefusedError, match=r"is 76 bytes long, and at most 75 leave room for a unix socket's path"):
        runtime_dir.choose_runtime_dir({"LLMSPELL_RUNTIME_DIR": longest + "r"}, uid=7, home=HOME)


def test_the_longest_directory_leaves_room_for_a_socket() -> None:
    socket = f"{'r' * runtime_dir.LONGEST_RUNTIME_DIR}/k/{'0' * 12}/s-5"

    assert len(socket) <= 107


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Short, since what is tested has a longest length.
    root = tmp_path_factory.mktemp("r")
    monkeypatch.chdir(root)
    monkeypatch.setenv("LLMSPELL_RUNTIME_DIR", str(root / "run"))
    monkeypatch.setenv("LLMSPELL_STATE_DIR", str(root / "state"))
    monkeypatch.setenv("LLMSPELL_LOG_DIR", str(root / "logs"))
    return root


def test_directories_are_made_ours_alone(directories: Path) -> None:
    kernel_id = new_kernel_id()

    made = [
        runtime_dir.runtime_dir(),
        runtime_dir.state_dir(),
        runtime_dir.log_dir(),
        runtime_dir.socket_dir(kernel_id),
    ]

    assert [Path(path).stat().st_mode & 0o777 for path in made] == [0o700] * 4
    assert made[3] == f"{directories}/run/k/{kernel_id.replace('-', '')[:12]}"


def test_a_runtime_directory_that_others_may_enter_is_refused(directories: Path) -> None:
    (directories / "run").mkdir()
    (directories / "run").chmod(0o755)

    with pytest.raises(RefusedError, match="run `chmod 700 "):
        runtime_dir.runtime_dir()


@pytest.mark.usefixtures("directories")
def test_a_kernel_s_sockets_go_and_those_of_others_stay() -> None:
    mine, other = new_kernel_id(), new_kernel_id()
    for kernel_id in (mine, other):
        Path(runtime_dir.socket_dir(kernel_id), "s-1").touch()

    for kernel_id in (mine, mine, new_kernel_id()):
        runtime_dir.remove_socket_dir(kernel_id)

    assert [path.name for path in Path(runtime_dir.runtime_dir(), "k").iterdir()] == [other.replace("-", "")[:12]]
    runtime_dir.remove_socket_dir(other)
    assert list(Path(runtime_dir.runtime_dir()).iterdir()) == []


def test_kernels_are_listed_with_those_that_died(directories: Path) -> None:
    living, dead = sorted((new_kernel_id(), new_kernel_id()))
    lock = runtime_dir.lock_path()
    pidfile.claim(runtime_dir.pid_path(living), lock_path=lock, connection_file="/elsewhere.json")
    stale = Path(runtime_dir.pid_path(dead))
    stale.write_text(f"{os.getpid()}\n1\n")
    stale.chmod(0o600)

    entries = runtime_dir.list_kernels()

    assert [(entry.kernel_id, entry.running) for entry in entries] == [(living, True), (dead, False)]
    assert [entry.connection_file for entry in entries] == [
        "/elsewhere.json",
        runtime_dir.connection_path(dead),
    ]


def test_a_broken_entry_does_not_hide_the_others(directories: Path) -> None:
    good = new_kernel_id()
    pidfile.claim(runtime_dir.pid_path(good), lock_path=runtime_dir.lock_path())
    for name, text in (("kernel-broken.pid", "nonsense"), ("other.txt", ""), ("kernel-x.json", "{}")):
        (directories / "run" / name).write_text(text)

    assert [entry.kernel_id for entry in runtime_dir.list_kernels(str(directories / "run"))] == [good]
