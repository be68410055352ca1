"""What of a request says how a tenant's pool is to grow and shrink, put upon what held before."""

from typing import Any

import msgspec

from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.requests import TenantChange, TenantRequest
from llmspell_fleet.model.tenant import TenantSpec

_MEMBERS = ("autoscale", "cull_busy", "cull_connected", "warm", "warm_size", "restart", "max_age_s", "max_age_variance")


def pool_members(asked: TenantRequest | TenantChange) -> dict[str, Any]:
    """The members of a `TenantSpec` about its pool that `asked` names; None and UNSET = not named.

    ``autoscale: null`` of a change is named: it ends autoscaling.
    """
    members = {name: getattr(asked, name) for name in _MEMBERS}
    is_change = isinstance(asked, TenantChange)
    return {
        name: value
        for name, value in members.items()
        if value is not msgspec.UNSET and (value is not None or (is_change and name == "autoscale"))
    }


def scaled(spec: TenantSpec, change: TenantChange) -> TenantSpec:
    """`spec`, which is `change` applied, with replicas that its autoscaling allows.

    ConflictError: somebody wants to choose what the fleet chooses.
    """
    if spec.autoscale is None:
        return spec
    if change.replicas is not None and change.autoscale is msgspec.UNSET:
        raise ConflictError(
            f"tenant {spec.id} has as many kernels as its load wants, {_bounds(spec)}: change those, or set autoscale "
            "to null to choose the replicas"
        )
    return msgspec.structs.replace(spec, replicas=spec.autoscale.clipped(spec.replicas))


def require_fixed(spec: TenantSpec) -> None:
    """ConflictError: the fleet chooses how many kernels this tenant has, and adds none because somebody asks."""
    if spec.autoscale is not None:
        raise ConflictError(
            f"tenant {spec.id} has as many kernels as its load wants, {_bounds(spec)}: raise autoscale's min or max, "
            "or set autoscale to null"
        )


def _bounds(spec: TenantSpec) -> str:
    assert spec.autoscale is not None
    return f"from {spec.autoscale.min} to {spec.autoscale.max} (autoscale)"
