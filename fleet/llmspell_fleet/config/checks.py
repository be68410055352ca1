"""What in a fleet's configuration file contradicts itself, although each key by itself could be meant."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from llmspell_fleet.config.supervision import dependency_problems
from llmspell_fleet.config.tables import (
    FleetFile,
    FleetTable,
    FleetTenantTable,
    KernelLimitsTable,
    LimitsTable,
    autoscale_of,
    limits_of,
)
from llmspell_fleet.model.ids import NAME, is_name
from llmspell_fleet.model.isolation import DEFAULT_UIDS, uids_of
from llmspell_fleet.model.labels import MOST_LABELS, Labels
from llmspell_fleet.model.tenant import DEFAULT_TENANT, Limits
from llmspell_kernel import config as kernel_config
from llmspell_kernel.units import format_duration, format_size

SPELLINGS = {"max_memory_mb": "memory_bytes", "max_cpu_percent": "cpu_percent", "max_message_size": "max_message_bytes"}
"""Keys of ``[limits]`` that say what another one says."""

_DEFAULTS = Limits()
_LARGEST_MEMORY_BYTES = 2**50
_LARGEST_MESSAGE_BYTES = 2**31
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?:[0-9]{1,5}|\*))?", re.ASCII)
_HOST = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)


def problems(file: FleetFile) -> list[str]:
    """What cannot be meant although each key for itself could; a line for each, as `settings` writes them."""
    found = [*_fleet_problems(file.fleet), *_declared_problems(file.fleet), *_duration_problems(file)]
    found += _tenant_problems(file.fleet.tenants, is_multi_tenant=file.multi_tenant.enabled)
    found += _limits_problems(file.limits)
    if file.service_discovery.enabled and file.service_discovery.provider is None:
        found.append("[service_discovery] provider: is missing, expected one of consul, etcd, kubernetes, file")
    for origin in file.security.allowed_origins:
        if not _ORIGIN.fullmatch(origin.lower()):
            found.append(
                "[security] allowed_origins: expected an origin as browsers send it, such as http://localhost:8888 "
                f"or http://localhost:* for any port, found {origin!r}"
            )
    if uids_of(file.security.uid_range) is None:
        found.append(
            f'[security] uid_range: expected two users as in "{DEFAULT_UIDS[0]}-{DEFAULT_UIDS[1]}", '
            f"found {file.security.uid_range!r}"
        )
    for host in file.security.allowed_hosts:
        if not _is_host(host.lower()):
            found.append(
                "[security] allowed_hosts: expected a name or an address without a port, such as "
                f"fleet.example.com, found {host!r}"
            )
    for key, path in (("[service] pid_file", file.service.pid_file), ("[logging] file", file.logging.file)):
        if path is not None and not _is_path(path):
            found.append(f"{key}: expected the path of a file, found {path!r}")
    return found


def _fleet_problems(fleet: FleetTable) -> Iterator[str]:
    if not is_name(fleet.name):
        yield f"[fleet] name: expected a name that matches {NAME}, found {fleet.name!r}"
    wanted = max(fleet.startup_kernels or 0, len(fleet.kernels)) + sum(tenant.replicas for tenant in fleet.tenants)
    if wanted > fleet.max_kernels:
        yield f"[fleet] max_kernels: expected at least the {wanted} kernels of the start, found {fleet.max_kernels}"
    try:
        autoscale_of(fleet.autoscale)
    except ValueError as fault:
        yield f"[fleet.autoscale] {fault}"
    first, longest = fleet.restart.first_delay, fleet.restart.longest_delay
    if first > longest:
        yield (
            f"[fleet.restart] longest_delay: expected at least first_delay, which is {format_duration(first)}, "
            f"found {format_duration(longest)}"
        )


def _declared_problems(fleet: FleetTable) -> Iterator[str]:
    kernels = fleet.kernels
    for index, kernel in enumerate(kernels):
        where = f"[fleet.kernels[{index}]]"
        if not is_name(kernel.name):
            yield f"{where} name: expected a name that matches {NAME}, found {kernel.name!r}"
        if kernel.port and kernel.port == fleet.port:
            yield f"{where} port: expected another port than the fleet's own, found {kernel.port}"
        for key, path in (("log_file", kernel.log_file), ("pid_file", kernel.pid_file)):
            if path is not None and not _is_path(path):
                yield f"{where} {key}: expected the path of a file, found {path!r}"
        yield from _label_problems(where, kernel.labels)
        yield from _bounds_problems(where.replace("]]", "].limits]"), kernel.limits)
    yield from dependency_problems(fleet.kernels, fleet.restart.rule)
    for key in ("name", "port", "log_file", "pid_file"):
        for value in _repeated(getattr(kernel, key) for kernel in kernels):
            yield f"[[fleet.kernels]] {key}: expected a different one for each kernel, found {value!r} more than once"


def _tenant_problems(tenants: list[FleetTenantTable], *, is_multi_tenant: bool) -> Iterator[str]:
    if tenants and not is_multi_tenant:
        yield "[[fleet.tenants]]: expected none, since [multi_tenant] enabled is false"
    for index, tenant in enumerate(tenants):
        where = f"[fleet.tenants[{index}]]"
        if not is_name(tenant.id):
            yield f"{where} id: expected a name that matches {NAME}, found {tenant.id!r}"
        if tenant.id == DEFAULT_TENANT:
            yield f"{where} id: tenant default is what [fleet], [load_balancing], [multi_tenant] and [limits] say"
        try:
            autoscale_of(tenant.autoscale)
        except ValueError as fault:
            yield f"{where.replace(']]', '].autoscale]')} {fault}"
        yield from _label_problems(where, tenant.labels)
        yield from _bounds_problems(where.replace("]]", "].limits]"), tenant.limits)
    for value in _repeated(tenant.id for tenant in tenants):
        yield f"[[fleet.tenants]] id: expected a different one for each tenant, found {value!r} more than once"


def _label_problems(where: str, labels: Mapping[str, str]) -> Iterator[str]:
    for name, value in labels.items():
        try:
            msgspec.convert({name: value}, Labels)
        except msgspec.ValidationError:
            yield (
                f"{where} labels: expected names of A-Z, a-z, 0-9, ., _, / and -, and values that are not empty and "
                f"hold no comma, found {name[:80]!r} = {value[:80]!r}"
            )
    if len(labels) > MOST_LABELS:
        yield f"{where} labels: expected at most {MOST_LABELS}, found {len(labels)}"


def _repeated(values: Iterable[str | int | None]) -> list[str | int]:
    # Port 0 is whichever is free: never the same one twice.
    return [value for value, count in Counter(values).items() if value and count > 1]


def _duration_problems(file: FleetFile) -> Iterator[str]:
    fleet = file.fleet
    for key, value, least_s in (
        ("[fleet] start_deadline", fleet.start_deadline, 1),
        ("[fleet] stop_deadline", fleet.stop_deadline, 0.1),
        ("[fleet.probe] timeout", fleet.probe.timeout, 0.1),
        ("[fleet.probe] deadline", fleet.probe.deadline, 0.1),
        ("[fleet.stop] interrupt_deadline", fleet.stop.interrupt_deadline, 0.1),
        ("[fleet.stop] shutdown_deadline", fleet.stop.shutdown_deadline, 0.1),
        ("[fleet] lease_ttl", fleet.lease_ttl, 1),
        ("[fleet.restart] window", fleet.restart.window, 1),
        ("[load_balancing] health_check_interval", file.load_balancing.health_check_interval, 0.1),
        ("[monitoring] interval", file.monitoring.interval, 0.1),
    ):
        if value < least_s:
            yield f"{key}: expected at least {format_duration(least_s)}, found {format_duration(value)}"
    if fleet.lease_ttl > 86_400:
        yield f"[fleet] lease_ttl: expected at most 1d, found {format_duration(fleet.lease_ttl)}"


def _limits_problems(table: LimitsTable) -> Iterator[str]:
    for other, key in SPELLINGS.items():
        if getattr(table, other) is not None and getattr(table, key) != getattr(_DEFAULTS, key):
            yield f"[limits] {other}: {key} says the same thing; keep one of the two"
    yield from _bounds_problems("[limits]", limits_of(table))


def _bounds_problems(where: str, limits: Limits | KernelLimitsTable) -> Iterator[str]:
    memory, message = limits.memory_bytes, limits.max_message_bytes
    least = kernel_config.LEAST_MEMORY_BYTES
    if memory is not None and (0 < memory < least or memory > _LARGEST_MEMORY_BYTES):
        yield (
            f"{where} memory_bytes: expected 0 (no bound), or from {format_size(least)} to "
            f"{format_size(_LARGEST_MEMORY_BYTES)}, found {format_size(memory)}"
        )
    least = kernel_config.LEAST_MESSAGE_SIZE
    if message is not None and not least <= message <= _LARGEST_MESSAGE_BYTES:
        yield (
            f"{where} max_message_bytes: expected from {format_size(least)} to "
            f"{format_size(_LARGEST_MESSAGE_BYTES)}, found {format_size(message)}"
        )


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST.fullmatch(text) is not None
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_path(text: str) -> bool:
    return text.isprintable() and not text.endswith("/") and text.strip() != ""
