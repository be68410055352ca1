"""What is stored besides the model's own records."""

from typing import Literal

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel
from llmspell_fleet.model.tenant import TenantSpec

TokenKind = Literal["admin", "viewer", "tenant"]
ExecutionStatus = Literal["pending", "done", "failed"]


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant with what is known of it besides what it should have."""

    spec: TenantSpec
    created_at: str
    """ISO 8601 in UTC, as every `_at` here."""
    uid: int | None = None
    """Its own user, for as long as there is the tenant, once it was at `strict`; None = it has none."""


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A token, as its hash."""

    sha256: str
    """Of the token, in hexadecimal."""
    kind: TokenKind
    tenant: TenantId | None
    created_at: str


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel lent to a ZeroMQ client."""

    id: str
    tenant: TenantId
    session: str
    kernel_id: KernelId
    expires_at: str


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where an execution is about to be sent. As long as there is none, it was sent to nobody."""

    id: str
    kernel_id: KernelId
    incarnation: int
    after_ticket: int
    """Its ticket is higher: a kernel that has begun none beyond this one has not begun it."""
    head: bytes
    """How the body of its answer begins, before what the kernel says."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution whose one outcome is recorded."""

    id: str
    tenant: TenantId
    key: str | None
    """The Idempotency-Key, unique for the tenant; None = it had none, and is only fetched later."""
    sha256: str
    """Of the request's body, in hexadecimal."""
    created_at: str
    is_waited_for: bool = True
    """Whether whoever asked waits for the answer, and asks again with its key if none comes."""
    placed: Placed | None = None
    """Where it was sent last, while it is pending."""
    status: ExecutionStatus = "pending"
    finished_at: str | None = None
    http_status: int | None = None
    outcome: bytes | None = None
    """The body that was, or would have been, answered."""


class Begun(msgspec.Struct, frozen=True):
    """The execution is the first of its key, and recorded: run it, once."""

    id: str


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution came to."""

    id: str
    status: ExecutionStatus
    http_status: int
    outcome: bytes
    finished_at: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a controller starts from."""

    tenants: list[TenantRecord]
    kernels: list[Kernel]
    """Without pids and monotonic times when the machine was started anew since."""
    tokens: list[TokenRecord]
    leases: list[Lease]
    next_event_seq: int
    """Above every number that was given out before, by one unless the last controller was killed."""
    notes: dict[str, str] = {}
    """What else the last controller left (`Store.save_note`), by name."""
