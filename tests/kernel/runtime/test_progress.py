"""The number that a kernel leaves where its supervisor reads it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.router.progress import ProgressReader
from llmspell_kernel.runtime.progress import PROGRESS_BYTES, Progress


def test_a_reader_sees_what_was_begun_last(tmp_path: Path) -> None:
    path = str(tmp_path / "progress")
    progress = Progress(path)
    reader = ProgressReader(path)
    seen = [reader.begun]
    for ticket in (1, 2, 2**62):
        progress.begin(ticket)
        seen.append(reader.begun)

    assert seen == [0, 1, 2, 2**62]
    reader.close()


@given(ticket=st.integers(0, 2**62))
def test_it_outlives_its_writer(ticket: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("p") / "progress")
    Progress(path).begin(ticket)

    reader = ProgressReader(path)
    assert reader.begun == ticket
    reader.close()


def test_the_next_incarnation_begins_at_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.write_bytes(b"\xff" * 100)
    Progress(str(path))

    assert path.read_bytes() == bytes(PROGRESS_BYTES)


def test_a_new_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    Progress(str(path))

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "progress").symlink_to(tmp_path / "target")

    for opened in (Progress, ProgressReader):
        with pytest.raises(OSError, match="symbolic links"):
            opened(str(tmp_path / "progress"))
    assert (tmp_path / "target").read_bytes() == b"kept"
