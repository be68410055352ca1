"""Why a fleet must not start with a configuration here, and what comes of one whose isolation cannot be had."""

from collections.abc import Callable

from msgspec.structs import replace

from llmspell_fleet.config.fleet import FleetConfig
from llmspell_kernel.connection import is_loopback
from llmspell_kernel.errors import RefusedError


def refusals(config: FleetConfig) -> list[str]:
    """Why a fleet must not start with `config`, each with what to do; empty: it may. Isolation is `isolated`'s."""
    reasons = []
    if config.tls_enabled:
        reasons.append("[security] tls_enabled is true, and TLS is not built yet: set it to false")
    if not is_loopback(config.host):
        reasons.append(
            f"[fleet] host is {config.host or 'empty'}, expected an address that only this machine reaches, "
            "since there is no TLS: use 127.0.0.1 and an ssh tunnel or a proxy"
        )
    return reasons


def isolated(config: FleetConfig, *, missing: Callable[[], list[str]], allow_weaker: bool) -> FleetConfig:
    """`config` as a fleet may start with it here; RefusedError lists why it must not.

    `missing` says what `strict` lacks on this machine, which takes a moment to find out. With `allow_weaker`, who asks
    for `strict` where it cannot be had gets `process`, here and over HTTP, and the fleet's health says so.
    """
    reasons = refusals(config)
    is_asked = "strict" in {config.isolation_level, *(tenant.isolation_level for tenant in config.tenants)}
    lacks = missing() if is_asked or allow_weaker else []
    if lacks and is_asked and not allow_weaker:
        reasons.append(
            f'[multi_tenant] isolation_level is "strict", which cannot be had on this machine: {"; ".join(lacks)}. '
            'Set it to "process", or accept that with --allow-weaker-isolation'
        )
    if reasons:
        raise RefusedError("this fleet is refused:\n" + "\n".join(f"  {reason}" for reason in reasons))
    config = replace(config, allows_weaker=allow_weaker)
    if not lacks:
        return config
    said = (
        'isolation level "strict" cannot be had on this machine, and who asks for it gets "process" '
        f"(--allow-weaker-isolation): {'; '.join(lacks)}"
    )
    degraded = {**config.degraded, "isolation": said}
    if not is_asked:
        return replace(config, degraded=degraded)
    return replace(
        config,
        isolation_level="process" if config.isolation_level == "strict" else config.isolation_level,
        tenants=tuple(
            replace(tenant, isolation_level="process") if tenant.isolation_level == "strict" else tenant
            for tenant in config.tenants
        ),
        notices=(*config.notices, said),
        degraded=degraded,
    )
