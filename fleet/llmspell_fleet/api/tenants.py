"""Routes about tenants."""

from llmspell_fleet.api.answers import Reply, json_answer, no_content
from llmspell_fleet.api.call import Call
from llmspell_fleet.api.queries import SelectionQuery, selected
from llmspell_fleet.model.requests import DrainRequest, RollRequest, SignalRequest, TenantChange, TenantRequest
from llmspell_fleet.model.views import Page


async def create(call: Call, body: TenantRequest) -> Reply:
    """Make a tenant with its kernels.

    Answered when all replicas are READY, or `wait_s` ran out. The tenant's `token` is in this answer and nowhere else.
    """
    created = await call.fleet.create_tenant(body)
    return json_answer(created, 201, headers={"Location": f"/v1/tenants/{created.id}"})


async def listing(call: Call, query: SelectionQuery) -> Reply:
    """All tenants; with a tenant's token, that one."""
    tenants = call.fleet.tenants() if call.owner is None else [call.fleet.tenant(call.owner)]
    return json_answer(Page(items=selected(tenants, query)))


async def show(call: Call) -> Reply:
    """One tenant."""
    return json_answer(call.fleet.tenant(call.tenant))


async def update(call: Call, body: TenantChange) -> Reply:
    """Change what a tenant should have; what is not named stays.

    Answered when all replicas are READY, or `wait_s` ran out.
    """
    return json_answer(await call.fleet.update_tenant(call.tenant, body))


async def renew_token(call: Call) -> Reply:
    """Give a tenant another token, which is in this answer and nowhere else; those before open nothing any more.

    Tenants that the configuration declares get their first one so.
    """
    return json_answer(await call.fleet.renew_token(call.tenant), 201)


async def restart(call: Call, body: RollRequest) -> Reply:
    """Give each kernel of a tenant a new process, a few at a time, while the others serve.

    A busy kernel finishes what it runs first. Answered 200 at the end of it, with `status` "done" or "failed", or 202
    with "rolling" when `wait_s` ran out: it goes on, and the tenant's `roll` tells how far it is. One at a time.
    """
    roll = await call.fleet.restart_tenant(call.tenant, body)
    return json_answer(roll, 202 if roll.status == "rolling" else 200)


async def signal(call: Call, body: SignalRequest) -> Reply:
    """Forward a signal to the processes of a tenant's kernels."""
    call.fleet.signal_tenant(call.tenant, body.signal)
    return no_content()


async def drain(call: Call, body: DrainRequest) -> Reply:
    """Let a tenant's kernels finish what they run, and end; answered as for one kernel. The body may be left out."""
    return json_answer(await call.fleet.drain_tenant(call.tenant, body))


async def delete(call: Call) -> Reply:
    """End a tenant and all its kernels; answered when they are gone."""
    await call.fleet.delete_tenant(call.tenant)
    return no_content()
