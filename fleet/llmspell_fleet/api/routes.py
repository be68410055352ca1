"""The route table. The server, its description and the tests of who may do what are all made from it."""

from typing import Final

from llmspell_fleet.api import events, executions, kernels, system, tenants
from llmspell_fleet.api.answers import EVENT_STREAM, JSON, TEXT
from llmspell_fleet.api.auth import Access
from llmspell_fleet.api.route import Route, route
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.plan import ApplyView
from llmspell_fleet.model.requests import (
    ApplyRequest,
    DrainRequest,
    ExecuteRequest,
    KernelRequest,
    LeaseChange,
    LimitsChange,
    RollRequest,
    SignalRequest,
    TenantChange,
    TenantRequest,
    UpgradeRequest,
)
from llmspell_fleet.model.tenant import MIB
from llmspell_fleet.model.views import (
    ConnectionView,
    ExecuteView,
    ExecutionView,
    HealthView,
    KernelView,
    Page,
    RollView,
    TenantCreated,
    TenantView,
    TokenView,
    UpgradeView,
)
from llmspell_fleet.model.why import WhyView

OPEN, WATCH, READ, TENANT, ADMIN = Access.OPEN, Access.WATCH, Access.READ, Access.TENANT, Access.ADMIN

_TENANT: Final = "/v1/tenants/{tenant}"
_KERNEL: Final = "/v1/kernels/{kernel}"
_LEASE: Final = "/v1/leases/{lease}"

ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/livez", system.livez, OPEN, {200: JSON}),
    route("GET", "/readyz", system.readyz, OPEN, {200: JSON, 503: JSON}),
    route("GET", "/health", system.health, WATCH, {200: HealthView, 503: HealthView}),
    route("GET", "/metrics", system.metrics, WATCH, {200: TEXT}),
    route("GET", "/openapi.json", system.description, OPEN, {200: JSON}),
    route("GET", "/docs", system.docs, OPEN, {200: "text/html"}),
    route(
        "POST",
        "/v1/upgrade",
        system.upgrade,
        ADMIN,
        {200: UpgradeView},
        problems=(409, 503),
        is_body_optional=True,
        example=UpgradeRequest(),
    ),
    route(
        "POST",
        "/v1/apply",
        system.apply,
        ADMIN,
        {200: ApplyView},
        problems=(409, 429, 503),
        example=ApplyRequest(config="[fleet]\nstartup_kernels = 4\n", dry_run=True),
    ),
    route(
        "POST",
        "/v1/tenants",
        tenants.create,
        ADMIN,
        {201: TenantCreated},
        problems=(409, 429, 503),
        example=TenantRequest(id="acme", replicas=2, limits=LimitsChange(memory_bytes=64 * MIB)),
    ),
    route("GET", "/v1/tenants", tenants.listing, READ, {200: Page[TenantView]}),
    route("GET", _TENANT, tenants.show, READ, {200: TenantView}),
    route(
        "PATCH",
        _TENANT,
        tenants.update,
        ADMIN,
        {200: TenantView},
        problems=(409, 429, 503),
        example=TenantChange(replicas=4),
    ),
    route("POST", _TENANT + "/token", tenants.renew_token, ADMIN, {201: TokenView}, problems=(503,)),
    route(
        "POST",
        _TENANT + "/restart",
        tenants.restart,
        ADMIN,
        {200: RollView, 202: RollView},
        problems=(409, 429, 503),
        is_body_optional=True,
        example=RollRequest(max_unavailable="25%"),
    ),
    route("POST", _TENANT + "/signal", tenants.signal, ADMIN, {204: None}, example=SignalRequest(signal="USR1")),
    route(
        "POST",
        _TENANT + "/drain",
        tenants.drain,
        ADMIN,
        {200: TenantView},
        is_body_optional=True,
        problems=(503,),
        example=DrainRequest(restart=True),
    ),
    route("DELETE", _TENANT, tenants.delete, ADMIN, {204: None}, problems=(409, 503)),
    route(
        "POST",
        _TENANT + "/execute",
        executions.execute,
        TENANT,
        {200: ExecuteView, 202: ExecutionView},
        streams=(EVENT_STREAM,),
        problems=(409, 429, 502, 503),
        example=ExecuteRequest(code="return 6 * 7"),
    ),
    route("GET", _TENANT + "/executions/{execution}", executions.show, TENANT, {200: ExecutionView}),
    route("GET", _TENANT + "/connection", executions.lease, TENANT, {200: ConnectionView}, problems=(410, 429, 503)),
    route(
        "PATCH",
        _LEASE,
        executions.renew_lease,
        TENANT,
        {200: ConnectionView},
        is_body_optional=True,
        problems=(410,),
        example=LeaseChange(ttl_s=600),
    ),
    route("DELETE", _LEASE, executions.end_lease, TENANT, {204: None}, problems=(410,)),
    route(
        "POST",
        "/v1/kernels",
        kernels.create,
        ADMIN,
        {201: KernelView},
        problems=(409, 429, 503),
        example=KernelRequest(tenant=TenantId("acme")),
    ),
    route("GET", "/v1/kernels", kernels.listing, READ, {200: Page[KernelView]}),
    route("GET", _KERNEL, kernels.show, READ, {200: KernelView}, problems=(410,)),
    route("DELETE", _KERNEL, kernels.delete, TENANT, {204: None}, problems=(409, 410, 503)),
    route("POST", _KERNEL + "/interrupt", kernels.interrupt, TENANT, {204: None}, problems=(409, 410, 503)),
    route("POST", _KERNEL + "/restart", kernels.restart, TENANT, {200: KernelView}, problems=(409, 410, 503)),
    route(
        "POST",
        _KERNEL + "/signal",
        kernels.signal,
        TENANT,
        {204: None},
        problems=(409,),
        example=SignalRequest(signal="INT"),
    ),
    route(
        "POST",
        _KERNEL + "/drain",
        kernels.drain,
        TENANT,
        {200: KernelView},
        is_body_optional=True,
        problems=(503,),
        example=DrainRequest(wait_s=5),
    ),
    route("POST", "/v1/signal", kernels.signal_all, ADMIN, {204: None}, example=SignalRequest(signal="HUP")),
    route(
        "POST",
        "/v1/drain",
        kernels.drain_all,
        ADMIN,
        {200: Page[TenantView]},
        is_body_optional=True,
        problems=(503,),
        example=DrainRequest(restart=True),
    ),
    route("GET", _KERNEL + "/why", kernels.why, READ, {200: WhyView}, problems=(503,)),
    route("GET", _KERNEL + "/logs", kernels.logs, TENANT, {200: TEXT}, streams=(EVENT_STREAM,), problems=(410, 503)),
    route("GET", "/v1/events", events.listing, READ, {200: Page[Event]}, streams=(EVENT_STREAM,), problems=(503,)),
)
