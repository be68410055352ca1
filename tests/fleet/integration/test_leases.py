"""Kernels lent to Jupyter's own client."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from support.homes import DEADLINE_S
from support.tenants import Tenant, wait_for

pytestmark = pytest.mark.integration

Make = Callable[..., Tenant]


def _lease(tenant: Tenant, session: str = "") -> dict[str, Any]:
    query = f"?session={session}" if session else ""
    answer = tenant.fleet.ask("GET", f"{tenant.path}/connection{query}", token=tenant.token)
    assert answer.status == 200, answer.body
    lent: dict[str, Any] = answer.json
    return lent


def _renew(tenant: Tenant, lease: str, **members: object) -> Any:
    return tenant.fleet.ask("PATCH", f"/v1/leases/{lease}", members, token=tenant.token)


def _leases(tenant: Tenant) -> int:
    return sum(kernel["usage"]["leases"] for kernel in tenant.kernels())


@contextlib.contextmanager
def _client(lent: dict[str, Any]) -> Iterator[BlockingKernelClient]:
    client = BlockingKernelClient()
    client.load_connection_info(lent["connection"])
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        yield client
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)


def _reply(client: BlockingKernelClient, code: str) -> dict[str, Any]:
    content: dict[str, Any] = client.execute(code, reply=True, timeout=DEADLINE_S)["content"]
    return content


def test_jupyter_s_client_works_with_a_connection_as_it_is(tenant: Tenant) -> None:
    lent = _lease(tenant)

    assert lent.keys() == {"kernel_id", "session", "lease", "connection"}
    assert lent["lease"].keys() == {"id", "expires_at"}
    assert lent["kernel_id"] == tenant.created["kernels"][0]["id"]
    assert lent["connection"].keys() >= {
        *("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"),
        *("ip", "transport", "key", "signature_scheme"),
    }
    assert lent["connection"]["transport"] == "ipc"
    outputs: list[tuple[str, Any]] = []
    with _client(lent) as client:
        reply = client.execute_interactive(
            "print('hi') return 6*7",
            timeout=DEADLINE_S,
            output_hook=lambda message: outputs.append((message["msg_type"], message["content"])),
        )
        assert reply["content"]["status"] == "ok"
    assert ("stream", {"name": "stdout", "text": "hi\n"}) in outputs
    (result,) = (content for kind, content in outputs if kind == "execute_result")
    assert result["data"]["text/plain"] == "42"


def test_a_client_and_http_share_a_session(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3)
    tenant.run("mark = 'http'", session="mine")
    lent = _lease(tenant, "mine")

    with _client(lent) as client:
        assert _reply(client, "assert(mark == 'http') mark = 'zmq'")["status"] == "ok"

    assert tenant.value("return mark", session="mine") == "zmq"


def test_a_kernel_with_a_port_is_lent_over_tcp(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=0)
    made = tenant.fleet.ask("POST", "/v1/kernels", {"tenant": tenant.id, "port": 0})
    assert made.status == 201, made.body
    lent = _lease(tenant)

    assert (lent["connection"]["transport"], lent["connection"]["ip"]) == ("tcp", "127.0.0.1")
    with _client(lent) as client:
        assert _reply(client, "x = 1")["status"] == "ok"


def test_one_session_has_one_lease_and_others_have_their_own(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2)
    first, again, other = _lease(tenant, "mine"), _lease(tenant, "mine"), _lease(tenant, "yours")

    assert (again["lease"]["id"], again["connection"]) == (first["lease"]["id"], first["connection"])
    assert again["lease"]["expires_at"] > first["lease"]["expires_at"]
    assert other["lease"]["id"] != first["lease"]["id"]
    assert other["kernel_id"] != first["kernel_id"]
    assert _leases(tenant) == 2


def test_patch_renews_for_as_long_as_it_says(tenant: Tenant) -> None:
    lent = _lease(tenant)

    renewed = _renew(tenant, lent["lease"]["id"], ttl_s=4000)

    assert renewed.status == 200
    assert renewed.json["connection"] == lent["connection"]
    until = datetime.fromisoformat(renewed.json["lease"]["expires_at"])
    before = datetime.fromisoformat(lent["lease"]["expires_at"])
    assert 3600 < (until - before).total_seconds() < 3800  # the fleet's own term is 300 s
    without_body = tenant.fleet.ask("PATCH", f"/v1/leases/{lent['lease']['id']}", token=tenant.token)
    assert without_body.status == 200, without_body.body


def test_a_lease_ends_when_nobody_renews_it(tenant: Tenant) -> None:
    lease = _lease(tenant)["lease"]["id"]
    assert _leases(tenant) == 1

    assert _renew(tenant, lease, ttl_s=0.2).status == 200

    wait_for(lambda: _leases(tenant) == 0, "the lease has ended")
    assert _renew(tenant, lease).status == 404


def test_traffic_renews_a_lease(tenant: Tenant) -> None:
    lent = _lease(tenant)
    with _client(lent) as client:
        assert _renew(tenant, lent["lease"]["id"], ttl_s=1.5).status == 200
        enough_at = time.monotonic() + 3.5
        while time.monotonic() < enough_at:
            _reply(client, "x = 1")
        assert _leases(tenant) == 1
        wait_for(lambda: _leases(tenant) == 0, "the lease has ended")


def test_delete_ends_a_lease(tenant: Tenant) -> None:
    lease = _lease(tenant)["lease"]["id"]

    ended = [tenant.fleet.ask("DELETE", f"/v1/leases/{lease}", token=tenant.token).status for _ in range(2)]

    assert ended == [204, 404]
    assert _leases(tenant) == 0


def test_another_tenant_s_lease_is_not_there(make_tenant: Make) -> None:
    one, other = make_tenant(), make_tenant()
    lease = _lease(one)["lease"]["id"]

    assert _renew(other, lease).status == 404
    assert one.fleet.ask("DELETE", f"/v1/leases/{lease}", token=other.token).status == 404
    assert one.fleet.ask("GET", f"{one.path}/connection", token=other.token).status == 404
    assert _leases(one) == 1


def test_a_client_goes_on_with_the_next_incarnation(tenant: Tenant) -> None:
    lent = _lease(tenant, "mine")
    with _client(lent) as client:
        assert _reply(client, "mark = 1")["status"] == "ok"
        os.kill(tenant.kernel(lent["kernel_id"])["pid"], signal.SIGKILL)
        tenant.wait_restarted(lent["kernel_id"])

        assert _reply(client, "assert(mark == nil) mark = 2")["status"] == "ok"

        again = _lease(tenant, "mine")
        volatile = {"pid", "start_time"}
        assert {name: value for name, value in again["connection"].items() if name not in volatile} == {
            name: value for name, value in lent["connection"].items() if name not in volatile
        }
        assert again["lease"]["id"] == lent["lease"]["id"]
    assert tenant.value("return mark", session="mine") == "2"


def test_a_deleted_tenant_s_leases_are_gone_with_it(make_tenant: Make) -> None:
    tenant = make_tenant()
    lease = _lease(tenant)["lease"]["id"]

    assert tenant.fleet.ask("DELETE", tenant.path).status == 204

    assert tenant.fleet.ask("PATCH", f"/v1/leases/{lease}", {}).status == 404
