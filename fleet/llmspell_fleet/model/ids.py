"""Names and numbers of things, as types that cannot be confused."""

import re
from typing import Final, NewType

KernelId = NewType("KernelId", str)
"""A UUID, lower case with hyphens; outlives the kernel's processes."""

TenantId = NewType("TenantId", str)
"""A name (`NAME`)."""

WARM: Final = TenantId("_warm")
"""Whose kernels are that belong to no tenant yet. No tenant can be called so."""

NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$(?!\n)"
"""What tenants, kernels' names, sessions of leases and pools look like. ASCII only, so that no two look alike.

Python's `$` would let a line break follow; the end of it is for that, in a form that JSON Schema's dialect has too.
"""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether `text` is a name from its first character to its last."""
    return _NAME.fullmatch(text) is not None


def is_kernel_id(text: str) -> bool:
    """Whether `text` is a kernel's id as we write them."""
    return _UUID.fullmatch(text) is not None
