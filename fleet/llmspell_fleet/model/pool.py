"""How a tenant's pool of kernels may grow, shrink and be made ready before it is needed."""

from typing import Annotated, Literal

import msgspec

WarmUse = Literal["prefer", "require", "never"]
"""Whether a new kernel of a tenant is a warm one (one that is READY before anybody needs it): if there is one, always
(wait for one), or never."""


class Autoscale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Between which numbers of kernels the fleet itself chooses, and how."""

    max: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    min: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1
    busy_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    """The share of the kernels that has something to do, above which there are too few. What waits counts as to do."""
    up_after_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.2
    """How long there must have been too few before there are more."""
    down_after_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    """How long there must have been too many before there are fewer: the stabilisation window."""

    def __post_init__(self) -> None:
        if self.max < self.min:
            raise ValueError(f"max: expected at least min, which is {self.min}, found {self.max}")
        if self.down_after_s < self.up_after_s:
            raise ValueError(
                f"down_after_s: expected at least up_after_s, which is {self.up_after_s:g}, found {self.down_after_s:g}"
            )

    def clipped(self, kernels: int) -> int:
        """The number of kernels nearest to `kernels` that may be."""
        return min(max(kernels, self.min), self.max)
