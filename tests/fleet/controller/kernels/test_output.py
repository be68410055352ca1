"""What kernels write, through real FIFOs: kept in bounds, written to files, told to followers."""

import asyncio
import contextlib
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspell_fleet.controller.followers import MOST_WAITING
from llmspell_fleet.controller.kernels import output
from llmspell_fleet.controller.kernels.output import KEPT_BYTES, KEPT_LINES, LONGEST_LINE, Output
from support.spawning import eventually

pytestmark = pytest.mark.asyncio


class Kernel:
    """The writing end of a FIFO, and the output that listens to it."""

    def __init__(self, folder: Path) -> None:
        self.fifo = folder / "output"
        self.log = folder / "kernel.log"
        self.further_log = folder / "further.log"
        self.output = Output(str(self.fifo), [str(self.log), str(self.further_log)])

    def write(self, *writes: bytes) -> None:
        """Write, and have each write read on its own."""
        descriptor = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            for data in writes:
                assert os.write(descriptor, data) == len(data)
                self.output.read()
        finally:
            os.close(descriptor)

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.output.since(0)]

    def logged(self) -> list[str]:
        """The lines of the log, without their dates."""
        return [line.partition(" ")[2] for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def kernel_in(folder: Path) -> Iterator[Kernel]:
    """A kernel that is listened to."""
    loop = asyncio.get_running_loop()
    made = Kernel(folder)
    made.output.open(loop)
    try:
        yield made
    finally:
        made.output.close(loop)


@pytest_asyncio.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    with kernel_in(tmp_path) as made:
        yield made


# --- lines


@pytest.mark.parametrize(
    ("case", "writes", "expected"),
    [
        ("one line", [b"one\n"], ["one"]),
        ("several at once", [b"one\ntwo\n\nfour\n"], ["one", "two", "", "four"]),
        ("a line in pieces", [b"o", b"n", b"e\ntw", b"o\n"], ["one", "two"]),
        ("an unfinished line is none yet", [b"one\ntw"], ["one"]),
        ("a character in two reads", [b"caf\xc3", b"\xa9\n"], ["café"]),
        ("no text", [b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        ("what would drive a terminal", [b"\x1b]0;x\x07\x1b[2J\x00\r\x7f\n"], ["�]0;x��[2J���"]),
        ("what would reorder a line", ["a\u202eb\u2028c\n".encode()], ["a�b�c"]),
        ("tabs, and text of all scripts", ["a\tb é 日本 😀\n".encode()], ["a\tb é 日本 😀"]),
        ("as long as a line may be", [b"x" * LONGEST_LINE + b"\n"], ["x" * LONGEST_LINE]),
        ("one longer", [b"x" * LONGEST_LINE + b"y\n"], ["x" * LONGEST_LINE, "y"]),
        ("one longer, and not finished", [b"x" * LONGEST_LINE + b"y"], ["x" * LONGEST_LINE]),
        ("much longer", [b"x" * (3 * LONGEST_LINE) + b"\n"], ["x" * LONGEST_LINE] * 3),
    ],
)
async def test_lines_are_kept_as_text(kernel: Kernel, case: str, writes: list[bytes], expected: list[str]) -> None:
    kernel.write(*writes)

    assert kernel.texts == expected


@settings(max_examples=50)
@given(
    st.lists(
        st.binary(min_size=1, max_size=9) | st.just(b"\n") | st.integers(1, 9000).map(lambda n: b"x" * n), max_size=7
    )
)
async def test_lines_do_not_depend_on_how_they_are_read(writes: list[bytes]) -> None:
    texts = []
    for reads in (writes, [b"".join(writes)]):
        with tempfile.TemporaryDirectory() as folder, kernel_in(Path(folder)) as kernel:
            kernel.write(*reads)
            texts.append(kernel.texts)

    assert texts[0] == texts[1]


async def test_numbers_grow_by_one_and_since_is_what_comes_after(kernel: Kernel) -> None:
    kernel.write(b"".join(b"%d\n" % n for n in range(1, 11)))

    lines = kernel.output.since(0)
    assert [line.seq for line in lines] == list(range(1, 11))
    assert [line.text for line in kernel.output.since(7)] == ["8", "9", "10"]
    assert kernel.output.since(10) == []
    assert all(line.at.endswith("Z") for line in lines)


async def test_the_loop_reads_by_itself(kernel: Kernel) -> None:
    descriptor = os.open(kernel.fifo, os.O_WRONLY)
    os.write(descriptor, b"heard\n")
    os.close(descriptor)

    await eventually(lambda: kernel.texts, "the line")
    assert kernel.texts == ["heard"]


async def test_reading_when_nothing_was_written_or_nobody_listens_is_nothing(kernel: Kernel) -> None:
    kernel.output.read()
    kernel.output.close(asyncio.get_running_loop())
    kernel.output.read()
    kernel.output.close(asyncio.get_running_loop())

    assert kernel.texts == []


# --- bounds


async def test_so_many_lines_are_kept(kernel: Kernel) -> None:
    kernel.write(*(b"%d\n" % n for n in range(KEPT_LINES + 50)))

    assert len(kernel.texts) == KEPT_LINES
    assert (kernel.texts[0], kernel.texts[-1]) == ("50", str(KEPT_LINES + 49))
    assert kernel.output.since(0)[-1].seq == KEPT_LINES + 50


async def test_so_many_bytes_are_kept(kernel: Kernel) -> None:
    line = b"x" * 1024 + b"\n"
    kernel.write(*[line * 10] * 30)

    assert sum(map(len, kernel.texts)) == KEPT_BYTES
    assert len(kernel.logged()) == 300


async def test_the_bound_counts_bytes_whatever_the_characters_are(kernel: Kernel) -> None:
    line = "😀" * 256 + "\n"
    kernel.write(*[line.encode() * 10] * 30)

    assert sum(len(text.encode()) for text in kernel.texts) == KEPT_BYTES


# --- incarnations


async def test_a_line_says_whose_it_is(kernel: Kernel) -> None:
    kernel.output.begin(1)
    kernel.write(b"first\n")
    kernel.output.begin(2)
    kernel.write(b"second\n")

    assert [(line.incarnation, line.text) for line in kernel.output.since(0)] == [(1, "first"), (2, "second")]
    assert kernel.logged() == ["[1] first", "[2] second"]


async def test_the_next_incarnation_does_not_go_on_with_the_line_of_the_last(kernel: Kernel) -> None:
    kernel.output.begin(1)
    kernel.write(b"cut sho")
    kernel.output.begin(2)
    kernel.write(b"hello\n")

    assert [(line.incarnation, line.text) for line in kernel.output.since(0)] == [(1, "cut sho"), (2, "hello")]


async def test_what_was_written_before_the_next_incarnation_is_the_last_one_s(kernel: Kernel) -> None:
    kernel.output.begin(1)
    descriptor = os.open(kernel.fifo, os.O_WRONLY)
    os.write(descriptor, b"last words\n")
    os.close(descriptor)
    kernel.output.begin(2)

    assert [(line.incarnation, line.text) for line in kernel.output.since(0)] == [(1, "last words")]


async def test_the_last_lines_are_those_of_the_present_incarnation_unread_and_unfinished_ones_too(
    kernel: Kernel,
) -> None:
    kernel.output.begin(1)
    kernel.write(b"earlier\n")
    kernel.output.begin(2)
    assert kernel.output.last(20) == ()
    descriptor = os.open(kernel.fifo, os.O_WRONLY)
    os.write(descriptor, b"one\ntwo\nthree\nSegm\x1b")
    os.close(descriptor)

    assert kernel.output.last(20) == ("one", "two", "three", "Segm�")
    assert kernel.output.last(2) == ("three", "Segm�")
    assert kernel.texts == ["earlier", "one", "two", "three"]


# --- files


async def test_each_log_gets_each_line_with_its_date_and_incarnation(kernel: Kernel) -> None:
    kernel.output.begin(3)
    kernel.write(b"one\n", b"caf\xc3\xa9\x1b\n")

    at = kernel.output.since(0)[0].at
    assert kernel.log.read_text().splitlines()[0] == f"{at} [3] one"
    assert kernel.logged() == ["[3] one", "[3] café�"]
    assert kernel.further_log.read_bytes() == kernel.log.read_bytes()
    assert stat.S_IMODE(kernel.log.stat().st_mode) == 0o600
    assert kernel.output.dropped == 0


async def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    with kernel_in(tmp_path) as kernel:
        kernel.write(b"one\n")
    with kernel_in(tmp_path) as kernel:
        kernel.write(b"two\n")

    assert kernel.logged() == ["[0] one", "[0] two"]


async def test_a_log_that_is_too_long_is_put_aside_and_one_such_is_kept(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LONGEST_FILE", 100)
    aside = kernel.log.with_name("kernel.log.1")
    kernel.write(b"1" * 100 + b"\n")
    assert aside.read_text().endswith("[0] " + "1" * 100 + "\n")
    kernel.write(b"short\n")
    assert kernel.logged() == ["[0] short"]
    kernel.write(b"2" * 100 + b"\n")

    assert [text.partition(" ")[2] for text in aside.read_text().splitlines()] == ["[0] short", "[0] " + "2" * 100]
    assert sorted(path.name for path in kernel.log.parent.glob("kernel.log*")) == ["kernel.log.1"]
    assert kernel.output.dropped == 0


@pytest.mark.parametrize(
    ("case", "spoil"),
    [
        ("a folder is in its place", lambda path: path.mkdir()),
        ("a link leads elsewhere", lambda path: path.symlink_to(path.with_name("elsewhere"))),
    ],
)
async def test_what_does_not_reach_a_log_is_counted_and_reaches_the_others(
    kernel: Kernel, case: str, spoil: Callable[[Path], None]
) -> None:
    spoil(kernel.log)

    kernel.write(b"one\ntwo\n", b"three\n")

    assert kernel.output.dropped == 3
    assert kernel.texts == ["one", "two", "three"]
    assert len(kernel.further_log.read_text().splitlines()) == 3
    assert not kernel.log.with_name("elsewhere").exists()


async def test_a_log_folder_that_was_removed_is_no_fault(tmp_path: Path) -> None:
    made = Output(str(tmp_path / "output"), [str(tmp_path / "gone" / "kernel.log")])
    made.open(asyncio.get_running_loop())
    descriptor = os.open(tmp_path / "output", os.O_WRONLY)
    os.write(descriptor, b"one\n")
    os.close(descriptor)
    made.close(asyncio.get_running_loop())

    assert ([line.text for line in made.since(0)], made.dropped) == (["one"], 1)


async def test_the_last_words_are_logged_when_the_fleet_ends(kernel: Kernel) -> None:
    kernel.write(b"one\nunfinished")

    kernel.output.close(asyncio.get_running_loop())

    assert kernel.logged() == ["[0] one", "[0] unfinished"]


# --- the FIFO


async def test_the_fifo_is_private_and_takes_what_is_there(kernel: Kernel) -> None:
    assert stat.S_ISFIFO(kernel.fifo.stat().st_mode)
    assert stat.S_IMODE(kernel.fifo.stat().st_mode) == 0o600
    before = kernel.fifo.stat().st_ino

    kernel.output.open(asyncio.get_running_loop())

    assert kernel.fifo.stat().st_ino == before


async def test_the_next_controller_hears_what_was_written_meanwhile(kernel: Kernel, tmp_path: Path) -> None:
    writer = os.open(kernel.fifo, os.O_RDWR)
    kernel.output.close(asyncio.get_running_loop())
    os.write(writer, b"while nobody listened\n")

    with kernel_in(tmp_path) as following:
        following.output.read()
        assert following.texts == ["while nobody listened"]
    os.close(writer)


async def test_a_fifo_that_was_removed_is_made_anew_and_the_lines_stay(kernel: Kernel) -> None:
    kernel.write(b"one\n")
    kernel.fifo.unlink()

    kernel.output.open(asyncio.get_running_loop())
    kernel.write(b"two\n")

    assert kernel.texts == ["one", "two"]
    assert len(kernel.logged()) == 2


async def test_a_link_in_the_place_of_the_fifo_is_not_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "elsewhere")
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        Output(str(tmp_path / "output"), []).open(asyncio.get_running_loop())


async def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Output(str(tmp_path / "nowhere" / "output"), []).open(asyncio.get_running_loop())


# --- following


async def test_a_follower_hears_what_was_and_then_what_comes(kernel: Kernel) -> None:
    kernel.write(b"1\n2\n3\n")
    heard: list[str] = []

    async def follow() -> None:
        async for line in kernel.output.follow(1):
            heard.append(line.text)  # noqa: PERF401 - each as it comes

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        await eventually(lambda: len(heard) == 2, "what was")
        kernel.write(b"4\n", b"5\n")
        await eventually(lambda: len(heard) == 4, "what comes")
        kernel.output.followers.end()

    assert heard == ["2", "3", "4", "5"]


async def test_a_follower_that_is_too_slow_sees_a_gap_in_the_numbers(kernel: Kernel) -> None:
    kernel.write(b"first\n")
    follower = kernel.output.follow(0)
    numbers = [(await anext(follower)).seq]

    kernel.write(*[b"x\n" * KEPT_LINES] * 8)
    kernel.output.followers.end()
    numbers += [line.seq async for line in follower]

    assert numbers == [1, *range(4001 - MOST_WAITING + 1, 4002)]


async def test_of_too_many_lines_at_once_the_last_are_kept_and_the_gap_is_numbered(kernel: Kernel) -> None:
    kernel.write(b"".join(b"%d\n" % number for number in range(KEPT_LINES + 200)))

    lines = kernel.output.since(0)
    assert kernel.output.dropped == 200
    assert [line.text for line in lines][:: KEPT_LINES - 1] == ["200", str(KEPT_LINES + 199)]
    assert lines[0].seq == 201


@pytest.mark.parametrize(
    ("case", "written", "is_flood"),
    [
        ("a line", b"one\n", False),
        ("lines", b"\n" * 60_000, True),
        ("no line", b"x" * 65_536, True),
        ("nothing", b"", False),
    ],
)
async def test_more_than_is_kept_is_a_flood(kernel: Kernel, case: str, written: bytes, is_flood: bool) -> None:
    descriptor = os.open(kernel.fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, written)
        assert kernel.output.read() == is_flood, case
    finally:
        os.close(descriptor)


async def test_a_kernel_that_floods_is_read_again_later(kernel: Kernel) -> None:
    descriptor = os.open(kernel.fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, b"\n" * 60_000)
        await eventually(lambda: kernel.output.dropped, "it was read")
        os.write(descriptor, b"after\n")
    finally:
        os.close(descriptor)

    await eventually(lambda: [line.text for line in kernel.output.since(0)][-1] == "after", "it is read on")


async def test_what_is_no_fifo_is_not_listened_to(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(b"a file")
    output = Output(str(path), [])
    with pytest.raises(OSError, match="expected a FIFO"):
        output.open(asyncio.get_running_loop())
    output.close(asyncio.get_running_loop())
