"""Where sessions live, as the next controller finds it."""

import asyncio
from pathlib import Path

import pytest

from llmspell_fleet.controller.pools import homes
from llmspell_fleet.controller.pools.homes import Homes, Visit
from llmspell_fleet.model.ids import KernelId, TenantId
from support.spawning import eventually

pytestmark = pytest.mark.asyncio

T, OTHER = TenantId("t"), TenantId("other")
K = KernelId("8c7e1f6a-0000-4000-8000-000000000000")


def opened(path: Path) -> Homes:
    made = Homes()
    made.open(str(path))
    return made


def visit(session: str, incarnation: int = 1, *, tenant: TenantId = T, home: KernelId | None = K) -> Visit:
    return Visit(tenant, session, home, K, incarnation)


async def test_what_was_noted_is_there_although_nobody_closed_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions.map"
    killed = opened(path)
    for noted in (visit("a"), visit("b"), visit("a", 2), visit("c", home=None), visit("ä€\U0001f600")):
        killed.note(noted)

    found = opened(path)

    assert list(found.visits.values()) == [visit("b"), visit("a", 2), visit("c", home=None), visit("ä€\U0001f600")]
    assert path.stat().st_mode & 0o777 == 0o600
    found.close()
    killed.close()


async def test_a_tenant_that_is_forgotten_takes_its_sessions_along_and_its_successor_has_its_own(
    tmp_path: Path,
) -> None:
    noting = opened(tmp_path / "sessions.map")
    for tenant in (T, OTHER):
        noting.note(visit("s", tenant=tenant))
    noting.forget(T)
    noting.note(visit("later"))
    noting.close()

    assert set(opened(tmp_path / "sessions.map").visits) == {(OTHER, "s"), (T, "later")}


@pytest.mark.parametrize("content", [b"", b"something else", b"LSHOMES1\xff\xff\xff\x7fno", b"LSHOMES1\x03\0\0\0bad"])
async def test_a_file_that_is_no_such_file_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions.map"
    path.write_bytes(content)

    made = opened(path)

    assert made.visits == {}
    made.note(visit("a"))
    assert set(opened(path).visits) == {(T, "a")}


async def test_a_record_that_was_cut_off_ends_it_and_those_before_it_hold(tmp_path: Path) -> None:
    path = tmp_path / "sessions.map"
    made = opened(path)
    for name in ("a", "b"):
        made.note(visit(name))
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[:-5])

    assert set(opened(path).visits) == {(T, "a")}


async def test_what_cannot_be_kept_is_said_once_and_hinders_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = opened(tmp_path / "missing" / "sessions.map")
    made.note(visit("a"))
    made.forget(T)
    made.close()
    assert len(caplog.records) == 1
    assert "a controller that comes after this one places them anew" in caplog.text


async def test_a_file_of_old_records_is_written_anew_while_notes_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "WASTE_BYTES", 20_000)
    path = tmp_path / "sessions.map"
    made = opened(path)
    for number in range(3000):
        made.note(visit(f"s{number % 10}", number))
        if number % 100 == 0:
            await asyncio.sleep(0)
    await eventually(lambda: made._since is None, "it is written")
    made.note(visit("last"))

    assert made._end < 3000 * 50
    found = opened(path).visits
    assert {key[1]: one.incarnation for key, one in found.items()} == {
        **{f"s{number % 10}": number for number in range(2990, 3000)},
        "last": 1,
    }


async def test_it_grows_with_what_it_holds(tmp_path: Path) -> None:
    made = opened(tmp_path / "sessions.map")
    names = [f"{'x' * 200}{number}" for number in range(8000)]
    for name in names:
        made.note(visit(name))
    assert [one.session for one in opened(tmp_path / "sessions.map").visits.values()] == names
