"""The log: its two forms, its rotation, and what happens when nobody keeps up with it."""

import json
import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmspell_kernel.daemon import logs
from llmspell_kernel.options import LogOptions

_LOGGER = logging.getLogger("llmspell.test")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "k.log"


def _configure(path: Path, **options: Any) -> logs.LogSink:
    return logs.configure(LogOptions(file=str(path), **options))


def test_a_line_for_people_says_when_how_urgent_who_and_what(log: Path) -> None:
    sink = _configure(log)
    _LOGGER.warning("%s happened", "it")
    sink.close()

    (line,) = log.read_text().splitlines()
    instant, level, name, *message = line.split()
    assert instant.endswith("Z")
    assert (level, name, " ".join(message)) == ("warning", "llmspell.test:", "it happened")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_text_with_line_ends_stays_one_line(log: Path) -> None:
    sink = _configure(log)
    _LOGGER.error("a\n2024-01-01T00:00:00.000Z error forged: b\r")
    sink.close()

    assert len(log.read_text().splitlines()) == 1


def test_json_lines_are_objects(log: Path) -> None:
    sink = _configure(log, json_lines=True)
    _LOGGER.info('text with "quotes" and\nlines')
    try:
        raise ValueError("sample")
    except ValueError:
        _LOGGER.exception("failed")
    sink.close()

    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert first.keys() == {"time", "level", "logger", "pid", "message"}
    assert first["message"] == 'text with "quotes" and\nlines'
    assert first["pid"] == os.getpid()
    assert "ValueError: sample" in second["exception"]


def test_an_exception_is_below_its_line(log: Path) -> None:
    sink = _configure(log)
    try:
        raise ValueError("sample")
    except ValueError:
        _LOGGER.exception("failed")
    sink.close()

    assert log.read_text().splitlines()[-1] == "ValueError: sample"


def test_what_is_less_urgent_is_left_out_until_it_is_asked_for(log: Path) -> None:
    sink = _configure(log, level="warning")
    _LOGGER.info("one")
    sink.set_level("debug")
    _LOGGER.debug("two")
    sink.set_level("warning")
    _LOGGER.info("three")
    sink.close()
    sink.close()

    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["two"]


def test_a_full_file_is_put_aside_and_the_oldest_dropped(log: Path) -> None:
    sink = _configure(log, rotate_bytes=200, rotate_count=2)
    for number in range(12):
        _LOGGER.info("message number %02d %s", number, "x" * 40)
    sink.close()

    kept = [log.with_name(f"{log.name}.{number}") for number in (2, 1)]
    assert sorted(log.parent.iterdir()) == sorted([log, *kept])
    numbers = [line.split()[5] for path in (*kept, log) for line in path.read_text().splitlines()]
    assert numbers == [f"{number:02d}" for number in range(12 - len(numbers), 12)]
    assert all(path.stat().st_size <= 200 for path in (*kept, log))


def test_none_is_kept_when_none_is_asked_for(log: Path) -> None:
    sink = _configure(log, rotate_bytes=100, rotate_count=0)
    for number in range(5):
        _LOGGER.info("message number %s %s", number, "x" * 40)
    sink.close()

    assert list(log.parent.iterdir()) == [log]
    assert len(log.read_text().splitlines()) == 1


def test_a_file_without_a_bound_grows(log: Path) -> None:
    sink = _configure(log, rotate_bytes=0)
    for _ in range(50):
        _LOGGER.info("x" * 100)
    sink.close()

    assert len(log.read_text().splitlines()) == 50


def test_a_file_that_was_moved_away_is_begun_anew_on_request(log: Path) -> None:
    sink = _configure(log)
    _LOGGER.info("before")
    sink.close()
    sink = _configure(log)
    log.rename(log.with_name("moved"))
    sink.reopen()
    _LOGGER.info("after")
    sink.close()

    assert log.with_name("moved").read_text().split()[-1] == "before"
    assert log.read_text().split()[-1] == "after"


def test_without_a_file_the_log_is_standard_error(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    sink = logs.configure(LogOptions())
    _LOGGER.info("hello")
    sink.reopen()
    sink.close()

    assert capsys.readouterr().err.endswith("llmspell.test: hello\n")
    assert not log.exists()


def test_lines_that_find_no_room_are_counted_and_told(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LONGEST_QUEUE", 2)
    os.mkfifo(log, 0o600)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    sink = _configure(log)
    # A pipe that nobody reads is a disk that does not answer: it takes 64 KiB, and then the writer waits.
    for _ in range(20):
        _LOGGER.info("x" * 30_000)
    with os.fdopen(reader, "rb") as stream:
        written = b""
        give_up_at = time.monotonic() + 20
        while b"dropped" not in written:
            assert time.monotonic() < give_up_at
            _LOGGER.info("more")
            written += stream.read() or b""
        sink.close()

    assert b" log lines were dropped: they came faster than they could be written" in written


_DAEMON = """
import logging, os, sys
from llmspell_kernel.daemon import logs
from llmspell_kernel.options import LogOptions
sink = logs.configure(LogOptions(file=sys.argv[1], owns_stdio=True, rotate_bytes=100, rotate_count=1))
for number in range(3):
    logging.getLogger("llmspell").info("message %s %s", number, "x" * 60)
sink.close()
os.write(1, b"printed\\n")
"""


def test_a_daemon_s_output_follows_its_log_through_rotations(tmp_path: Path) -> None:
    log = tmp_path / "k.log"

    done = subprocess.run([sys.executable, "-c", _DAEMON, str(log)], capture_output=True, check=True, timeout=30)

    assert done.stdout == b""
    assert log.read_text().splitlines()[-1] == "printed"
    assert "message 2" in log.read_text()
