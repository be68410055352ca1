"""Routes that run code, or lend a kernel to who runs it by other means."""

from llmspell_fleet.api.answers import JSON, PROBLEM, Answer, Reply, json_answer, no_content
from llmspell_fleet.api.call import Call
from llmspell_fleet.api.queries import ConnectionQuery, ExecuteQuery
from llmspell_fleet.api.streams import EVENTS, deliver, frame
from llmspell_fleet.errors import BadRequestError
from llmspell_fleet.model.requests import ExecuteRequest, LeaseChange


async def execute(call: Call, body: ExecuteRequest, query: ExecuteQuery) -> Reply:
    """Run Lua code on one of a tenant's kernels.

    Answered when it has run: also 200 when the script failed, with `status` and `error`. With `wait` false, 202 and the
    execution's address. With `stream` true, Server-Sent Events: `output`, `display`, at the end `result` or `problem`.
    A header `Idempotency-Key` gives one recorded outcome, however often the request is sent.
    """
    key = _idempotency_key(call)
    is_waited_for = body.wait and query.wait
    if body.stream:
        if key is not None or not is_waited_for:
            raise BadRequestError("a stream can neither be recorded (Idempotency-Key) nor fetched later (wait=false)")
        return await deliver(call, call.fleet.execute_stream(call.tenant, body), _as_event, EVENTS)
    if not is_waited_for:
        execution = await call.fleet.start_execution(call.tenant, body, key=key)
        location = f"/v1/tenants/{call.tenant}/executions/{execution.id}"
        return json_answer(execution, 202, headers={"Location": location})
    if key is not None:
        call.let_be_fetched()
    executed = await call.fleet.execute(call.tenant, body, key=key)
    return Answer(
        executed.status,
        executed.body,
        JSON if executed.status < 400 else PROBLEM,
        headers={"Idempotency-Replayed": "true"} if executed.is_replayed else None,
    )


async def show(call: Call) -> Reply:
    """An execution that was not waited for, or had an Idempotency-Key."""
    return json_answer(await call.fleet.execution(call.tenant, call.ids["execution"]))


async def lease(call: Call, query: ConnectionQuery) -> Reply:
    """Lend a kernel to a Jupyter client: its connection file as JSON, and until when it is lent."""
    return json_answer(await call.fleet.lease(call.tenant, query.session))


async def renew_lease(call: Call, body: LeaseChange) -> Reply:
    """Keep a lease for longer. The body may be left out."""
    return json_answer(call.fleet.renew_lease(call.ids["lease"], call.owner, body.ttl_s))


async def end_lease(call: Call) -> Reply:
    """Give a lent kernel back."""
    call.fleet.end_lease(call.ids["lease"], call.owner)
    return no_content()


def _as_event(piece: tuple[str, bytes]) -> bytes:
    return frame(*piece)


def _idempotency_key(call: Call) -> str | None:
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable() and " " not in key):
        raise BadRequestError("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key
