"""Files that hold secrets are ours alone."""

import os
import stat
from pathlib import Path

import pytest

from llmspell_kernel.errors import LlmspellError, MisuseError, RefusedError
from llmspell_kernel.safe_files import ensure_directory, open_log, read_private, write_private
from support.foreign import foreign_file


def _read(path: Path) -> bytes:
    return read_private(str(path), what="sample", limit_bytes=100)


def test_what_was_written_is_read_and_nobody_else_may(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    write_private(str(path), b"text", what="sample")

    assert _read(path) == b"text"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_writing_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("untouched")
    path = tmp_path / "secret"
    path.symlink_to(other)

    write_private(str(path), b"text", what="sample")

    assert other.read_text() == "untouched"
    assert not path.is_symlink()


def test_a_temporary_file_left_by_a_dead_namesake_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / f"secret.{os.getpid()}.tmp").write_text("left behind")

    write_private(str(tmp_path / "secret"), b"text", what="sample")

    assert _read(tmp_path / "secret") == b"text"


def test_writing_into_nowhere_says_where(tmp_path: Path) -> None:
    with pytest.raises(LlmspellError, match=r"the sample .*/nowhere/secret cannot be written: No such file"):
        write_private(str(tmp_path / "nowhere" / "secret"), b"text", what="sample")


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640, 0o666])
def test_a_file_that_others_may_touch_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text("text")
    path.chmod(mode)

    with pytest.raises(RefusedError, match=f"has mode {mode:04o}.* run `chmod 600 "):
        _read(path)


def test_another_user_s_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"belongs to user \d+, not to user \d+ who runs this"):
        _read(foreign_file(tmp_path))


def test_a_link_a_fifo_a_directory_and_a_long_file_are_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    write_private(str(real), b"x" * 101, what="sample")
    (tmp_path / "link").symlink_to(real)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "directory").mkdir(0o700)

    with pytest.raises(RefusedError, match="Too many levels of symbolic links"):
        _read(tmp_path / "link")
    with pytest.raises(MisuseError, match="is not a regular file"):
        _read(tmp_path / "fifo")
    with pytest.raises(MisuseError, match="is not a regular file"):
        _read(tmp_path / "directory")
    with pytest.raises(MisuseError, match="is longer than 100 bytes"):
        _read(real)


def test_a_missing_file_is_for_the_caller_to_judge(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _read(tmp_path / "none")


def test_a_directory_and_those_above_it_are_made_ours_alone(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"

    assert ensure_directory(str(deep)) == str(deep)

    assert {stat.S_IMODE(path.stat().st_mode) for path in (deep, deep.parent, deep.parent.parent)} == {0o700}
    assert ensure_directory(str(deep)) == str(deep)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)

    with pytest.raises(RefusedError, match=f"has mode {mode:04o}.* run `chmod 700 "):
        ensure_directory(str(path))


def test_a_log_directory_may_be_read_by_others_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "logs"
    path.mkdir()
    path.chmod(0o755)

    assert ensure_directory(str(path), readable=True) == str(path)
    path.chmod(0o775)
    with pytest.raises(RefusedError, match="run `chmod 755 "):
        ensure_directory(str(path), readable=True)


def test_a_link_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(RefusedError, match="is not a directory of its own"):
        ensure_directory(str(tmp_path / "link"))


def test_a_directory_below_a_file_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RefusedError, match="cannot be made or read: Not a directory"):
        ensure_directory(str(tmp_path / "file" / "run"))


def test_a_log_is_appended_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for line in (b"one\n", b"two\n"):
        with os.fdopen(open_log(str(path)), "wb") as stream:
            stream.write(line)

    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_in_no_directory_says_where(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"the log file .*/none/log cannot be written"):
        open_log(str(tmp_path / "none" / "log"))
