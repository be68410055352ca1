"""What a controller would hand to its metrics."""

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.observe.snapshot import KernelSample, Snapshot, TenantSample
from llmspell_fleet.observe.usage import OwnUsage, ProcessUsage

ACME = TenantId("acme")


def a_kernel(
    number: int = 1,
    tenant: TenantId = ACME,
    *,
    phase: Phase = Phase.READY,
    incarnation: int = 1,
    cpu_s: float = 1.5,
    pss_bytes: int | None = None,
    has_process: bool = True,
) -> KernelSample:
    """One kernel, of 30 MB and ten seconds old."""
    usage = ProcessUsage(memory_bytes=30_000_000, cpu_s=cpu_s, threads=4, files=20, pss_bytes=pss_bytes)
    return KernelSample(
        id=KernelId(f"00000000-0000-0000-0000-{number:012d}"),
        tenant=tenant,
        phase=phase,
        incarnation=incarnation,
        uptime_s=10.0,
        usage=usage if has_process else None,
    )


def a_snapshot(*kernels: KernelSample, tenants: tuple[TenantSample, ...] = (), at: float = 100.0) -> Snapshot:
    """A fleet of these kernels; without other word, of one tenant with some work."""
    return Snapshot(
        at=at,
        kernels=kernels,
        tenants=tenants or (TenantSample(id=ACME, running=2, waiting=3, leases=1),),
        capacity=2000,
        zmq_connections=len(kernels),
        http_connections=5,
        is_zygote_up=True,
        is_store_up=True,
        store_queue_length=0,
        own=OwnUsage(memory_bytes=60_000_000, cpu_s=12.25, files=40, max_files=1024),
    )
