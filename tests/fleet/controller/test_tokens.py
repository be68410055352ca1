"""Who a token is, and the files that hold the first two."""

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from llmspell_fleet.controller.tokens import Principal, Tokens
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.store.store import Store
from llmspell_kernel.errors import MisuseError, RefusedError
from support.foreign import foreign_file

A, B = TenantId("a"), TenantId("b")
ADMIN, VIEWER = Principal("admin"), Principal("viewer")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "fleet.db"


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    opened = Store.open(str(database))
    yield opened
    opened.close()


@pytest.fixture
def tokens(store: Store) -> Tokens:
    return Tokens(store.load().tokens, store)


@pytest.fixture
def file(database: Path) -> Path:
    return database.with_name("admin.token")


def reloaded(store: Store) -> Tokens:
    """As the next controller has them."""
    return Tokens(store.load().tokens, store)


# --- tokens


@pytest.mark.parametrize(
    ("kind", "tenant", "prefix"), [("admin", None, "lsa_"), ("viewer", None, "lsv_"), ("tenant", A, "lst_")]
)
def test_an_issued_token_is_known_in_the_next_life_too(
    tokens: Tokens, store: Store, kind: Literal["admin", "viewer", "tenant"], tenant: TenantId | None, prefix: str
) -> None:
    token = tokens.issue(kind, tenant)

    assert token.startswith(prefix)
    assert len(token) == len(prefix) + 43
    assert tokens.principal(token) == Principal(kind, tenant)
    assert reloaded(store).principal(token) == Principal(kind, tenant)


def test_no_two_tokens_are_alike(tokens: Tokens) -> None:
    assert len({tokens.issue("tenant", A) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "token", ["", "lsa_", "x" * 47, "\ud800", "é", "\x00", " ", pytest.param("lsa_" + "a" * 10_000_000, id="10 MB")]
)
def test_what_is_no_token_is_nobody_s(tokens: Tokens, token: str) -> None:
    tokens.issue("admin")

    assert tokens.principal(token) is None


@pytest.mark.parametrize(
    "spoil", [str.upper, lambda token: token[:-1], lambda token: f"{token}=", lambda token: f" {token}"]
)
def test_nearly_a_token_is_nobody_s(tokens: Tokens, spoil: Callable[[str], str]) -> None:
    token = tokens.issue("admin")

    assert tokens.principal(spoil(token)) is None


def test_a_hash_does_not_open_what_its_token_does(tokens: Tokens, store: Store) -> None:
    tokens.issue("admin")
    (row,) = store.load().tokens

    assert tokens.principal(row.sha256) is None


def test_a_tenant_s_tokens_are_revoked_and_no_others(tokens: Tokens, store: Store) -> None:
    first, second, other, admin = tokens.issue("tenant", A), tokens.issue("tenant", A), tokens.issue("tenant", B), tokens.issue("admin")  # fmt: skip

    tokens.revoke(A)

    for now in (tokens, reloaded(store)):
        assert [now.principal(token) for token in (first, second, other, admin)] == [
            None,
            None,
            Principal("tenant", B),
            ADMIN,
        ]


def test_no_token_is_written_down_or_shown(
    tokens: Tokens, store: Store, database: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens.ensure_file(str(file), "admin")
    secrets = [tokens.issue("tenant", A), tokens.issue("viewer"), file.read_text().strip()]
    store.load()
    stored = b"".join(other.read_bytes() for other in database.parent.iterdir() if other != file)

    for secret in secrets:
        assert secret not in caplog.text
        assert secret not in repr(tokens)
        assert secret.encode() not in stored
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored


# --- files


def test_a_file_is_made_for_us_alone_and_its_token_works(tokens: Tokens, store: Store, file: Path) -> None:
    tokens.ensure_file(str(file), "admin")

    token = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token.startswith("lsa_")
    assert tokens.principal(token) == ADMIN
    assert reloaded(store).principal(token) == ADMIN


def test_the_next_controller_takes_the_file_as_it_is(tokens: Tokens, store: Store, file: Path) -> None:
    tokens.ensure_file(str(file), "viewer")
    before = file.read_bytes()

    again = reloaded(store)
    again.ensure_file(str(file), "viewer")

    assert file.read_bytes() == before
    assert again.principal(before.decode().strip()) == VIEWER
    assert len(store.load().tokens) == 1


def test_a_file_is_enough_when_the_database_is_new(tokens: Tokens, file: Path) -> None:
    file.write_text("lsa_made-elsewhere-and-long-enough-0123456789\n")
    file.chmod(0o600)

    tokens.ensure_file(str(file), "admin")

    assert tokens.principal("lsa_made-elsewhere-and-long-enough-0123456789") == ADMIN


@pytest.mark.parametrize(
    "new", ["by-hand-0123456789-0123456789-0123456789", "  lsa_0123456789-0123456789-0123456789 \n\n"]
)
def test_a_replaced_file_replaces_the_token_and_the_older_one_ends(
    tokens: Tokens, store: Store, file: Path, new: str
) -> None:
    tokens.ensure_file(str(file), "admin")
    older = file.read_text().strip()
    viewer, tenant = tokens.issue("viewer"), tokens.issue("tenant", A)
    file.write_text(new)

    tokens.ensure_file(str(file), "admin")

    for now in (tokens, reloaded(store)):
        assert [now.principal(token) for token in (older, new.strip(), viewer, tenant)] == [
            None,
            ADMIN,
            VIEWER,
            Principal("tenant", A),
        ]


def test_a_removed_file_is_made_anew_and_the_older_token_ends(tokens: Tokens, file: Path) -> None:
    tokens.ensure_file(str(file), "admin")
    older = file.read_text().strip()
    file.unlink()

    tokens.ensure_file(str(file), "admin")

    assert tokens.principal(older) is None
    assert tokens.principal(file.read_text().strip()) == ADMIN


@pytest.mark.parametrize(
    ("case", "content"),
    [
        ("empty", b""),
        ("blank", b"\n \n"),
        ("short, so guessable", b"hunter2"),
        ("two words", b"0123456789-0123456789 0123456789-0123456789"),
        ("a control character", b"0123456789-0123456789\x000123456789-0123456789"),
        ("not ASCII", "0123456789-0123456789-0123456789-é".encode()),
        ("not text", bytes(range(128, 192))),
    ],
)
def test_what_cannot_be_a_token_is_refused_with_what_to_do(
    tokens: Tokens, file: Path, case: str, content: bytes
) -> None:
    file.write_bytes(content)
    file.chmod(0o600)

    with pytest.raises(
        MisuseError, match=r"the admin token .*admin\.token should hold one word .* remove it"
    ) as refused:
        tokens.ensure_file(str(file), "admin")

    assert "hunter2" not in str(refused.value)
    assert file.read_bytes() == content


def test_a_file_that_is_too_long_is_refused(tokens: Tokens, file: Path) -> None:
    file.write_text("x" * 2000)
    file.chmod(0o600)

    with pytest.raises(MisuseError, match="longer than 1024 bytes"):
        tokens.ensure_file(str(file), "admin")


def test_a_file_that_others_may_read_is_refused(tokens: Tokens, file: Path) -> None:
    tokens.ensure_file(str(file), "admin")
    file.chmod(0o644)

    with pytest.raises(RefusedError, match=r"has mode 0644, .* run `chmod 600 "):
        tokens.ensure_file(str(file), "admin")


def test_a_link_and_another_user_s_file_are_refused(tokens: Tokens, file: Path, tmp_path: Path) -> None:
    theirs = foreign_file(tmp_path)
    with pytest.raises(RefusedError, match="belongs to user"):
        tokens.ensure_file(str(theirs), "admin")

    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="Too many levels of symbolic links"):
        tokens.ensure_file(str(file), "admin")
    assert not (tmp_path / "elsewhere").exists()


def test_one_token_is_not_two(tokens: Tokens, file: Path) -> None:
    tokens.ensure_file(str(file), "admin")
    viewer = file.with_name("viewer.token")
    viewer.write_bytes(file.read_bytes())
    viewer.chmod(0o600)

    with pytest.raises(RefusedError, match="holds a token that is the admin token already"):
        tokens.ensure_file(str(viewer), "viewer")

    file.write_text(tokens.issue("tenant", A))
    with pytest.raises(RefusedError, match="is tenant a's already"):
        tokens.ensure_file(str(file), "admin")


def test_a_directory_that_cannot_be_written_is_said(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"the admin token .* cannot be written: No such file"):
        tokens.ensure_file(os.fspath(tmp_path / "nowhere" / "admin.token"), "admin")
