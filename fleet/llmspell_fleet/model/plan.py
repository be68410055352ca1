"""What applying a configuration does, for people and programs."""

from typing import Any, Literal

import msgspec

How = Literal["live", "rolling", "added", "removed", "restart"]
"""live: at once, and nothing is restarted; rolling: by a rolling restart of those kernels; restart: it waits for the
fleet's own restart."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the configuration says otherwise than it is."""

    target: str
    """"fleet", "tenant acme", "kernel kernel-01"."""
    key: str
    """What of it; "" = all of it."""
    before: Any
    after: Any
    how: How


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was changed at runtime, and is kept until the configuration says something new about it."""

    target: str
    key: str
    configured: Any
    """What the configuration says."""
    found: Any
    """What is, and stays."""
    detail: str = ""


class ApplyView(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/apply`: what is, or would be, done."""

    dry_run: bool
    changes: tuple[Change, ...]
    drift: tuple[Drift, ...]
