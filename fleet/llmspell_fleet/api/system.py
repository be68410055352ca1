"""Routes about the service itself."""

from llmspell_fleet.api.answers import Answer, Reply, json_answer
from llmspell_fleet.api.call import Call
from llmspell_fleet.model.requests import ApplyRequest, UpgradeRequest


async def livez(call: Call) -> Reply:  # noqa: ARG001 - a handler's form
    """Whether the controller runs.

    It does when this is answered at all.
    """
    return Answer(200, b'{"status":"alive"}')


async def readyz(call: Call) -> Reply:
    """Whether requests can be served: 200 or 503."""
    return Answer(200, b'{"status":"ready"}') if call.fleet.is_ready else Answer(503, b'{"status":"not ready"}')


async def health(call: Call) -> Reply:
    """How the fleet is, check by check: 503 when it is unhealthy, else 200."""
    view = call.fleet.health()
    return json_answer(view, 503 if view.status == "unhealthy" else 200)


async def upgrade(call: Call, body: UpgradeRequest) -> Reply:
    """Replace the controller's code by what is installed now. Kernels, and who is connected, notice nothing.

    Answered by the new code when it serves. 409 with the reason, and nothing is changed, when the new code or its
    configuration cannot start, or when requests whose answers would be lost still run after `wait_s`.
    """
    return json_answer(await call.fleet.upgrade(body, call.request.protocol))


async def metrics(call: Call) -> Reply:
    """All metrics, as Prometheus text or, by Accept, as OpenMetrics."""
    body, content_type = call.api.metrics.render(call.request.headers.get("Accept", ""))
    return Answer(200, body, content_type)


async def apply(call: Call, body: ApplyRequest) -> Reply:
    """Be as a configuration file says, key by key where it says something new; with `dry_run`, say what would change.

    What was changed through this interface meanwhile is kept, and told as `drift`. Everything that is wrong with a
    configuration is told at once, and nothing is changed then. It holds until the fleet's own file is changed.
    """
    return json_answer(await call.fleet.apply(body))


async def description(call: Call) -> Reply:
    """This interface as an OpenAPI 3.1 document."""
    return Answer(200, call.api.description.json)


async def docs(call: Call) -> Reply:
    """This interface as a page to read."""
    page = call.api.description.page
    return Answer(200, page.html, "text/html; charset=utf-8", policy=page.content_policy)
