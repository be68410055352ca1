"""Who a bearer token is, and the files that hold the first two.

A token is 256 random bits, so its plain SHA-256 is stored: a salt and a slow hash are against guessing, and there is
no guessing it. It is looked up by its hash: the time that this takes tells of hashes only, and nobody can make a token
whose hash begins as another's.
"""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal

import msgspec

from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.store.records import TokenKind, TokenRecord
from llmspell_fleet.store.store import Store
from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.safe_files import read_private, write_private

_PREFIXES: Final[dict[TokenKind, str]] = {"admin": "lsa_", "viewer": "lsv_", "tenant": "lst_"}
"""So that a token that is found somewhere tells what it opens."""

_RANDOM_BYTES: Final = 32
_SHORTEST: Final = 32
"""Characters of a token that a person made: a guessable one is not hidden by its hash."""
_LONGEST_BYTES: Final = 1024


class Principal(msgspec.Struct, frozen=True):
    """Who asks."""

    kind: TokenKind
    tenant: TenantId | None = None
    """Of kind "tenant" only."""


class Tokens:
    """All tokens that are valid now. For the controller's loop."""

    def __init__(self, records: Iterable[TokenRecord], store: Store) -> None:
        self._store = store
        self._principals = {bytes.fromhex(row.sha256): Principal(row.kind, row.tenant) for row in records}

    def __repr__(self) -> str:
        return f"<Tokens: {len(self._principals)}>"

    def principal(self, token: str) -> Principal | None:
        """Whose token this is; None = nobody's."""
        # What a client sent need not be text; no half of a surrogate pair may raise here.
        return self._principals.get(sha256(token.encode("utf-8", "surrogatepass")).digest())

    def issue(self, kind: TokenKind, tenant: TenantId | None = None) -> str:
        """A new token, which is nowhere but in the answer."""
        token = _new_token(kind)
        self._add(token, Principal(kind, tenant))
        return token

    def revoke(self, tenant: TenantId) -> None:
        """End all tokens of a tenant."""
        self._remove(digest for digest, principal in self._principals.items() if principal.tenant == tenant)

    def ensure_file(self, path: str, kind: Literal["admin", "viewer"]) -> None:
        """Make the token in the file at `path`, new if there is none, the one valid token of its kind.

        A person may replace the file: that is how a token is changed. RefusedError and MisuseError say what is
        wrong with it.
        """
        what = f"{kind} token"
        try:
            content = read_private(path, what=what, limit_bytes=_LONGEST_BYTES)
        except FileNotFoundError:
            token = _new_token(kind)
            write_private(path, f"{token}\n".encode(), what=what)
        else:
            token = _token_in(content, what=what, path=path)
        digest = sha256(token.encode()).digest()
        holder = self._principals.get(digest)
        if holder is None:
            self._add(token, Principal(kind))
        elif holder.kind != kind:
            raise RefusedError(
                f"the {what} {path} holds a token that is {_described(holder)} already: put another there, or remove "
                "the file, and a new one is made"
            )
        self._remove(other for other, who in self._principals.items() if who.kind == kind and other != digest)

    def _add(self, token: str, principal: Principal) -> None:
        digest = sha256(token.encode())
        self._principals[digest.digest()] = principal
        self._store.save_token(
            TokenRecord(
                sha256=digest.hexdigest(),
                kind=principal.kind,
                tenant=principal.tenant,
                created_at=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            )
        )

    def _remove(self, digests: Iterable[bytes]) -> None:
        for digest in list(digests):
            del self._principals[digest]
            self._store.delete_token(digest.hex())


def _new_token(kind: TokenKind) -> str:
    return _PREFIXES[kind] + secrets.token_urlsafe(_RANDOM_BYTES)


def _token_in(content: bytes, *, what: str, path: str) -> str:
    token = content.decode("ascii", "replace").strip()
    if len(token) < _SHORTEST or not all("!" <= character <= "~" for character in token):
        raise MisuseError(
            f"the {what} {path} should hold one word of at least {_SHORTEST} printable ASCII characters, and does not: "
            "remove it, and a new one is made"
        )
    return token


def _described(principal: Principal) -> str:
    return f"tenant {principal.tenant}'s" if principal.tenant is not None else f"the {principal.kind} token"
