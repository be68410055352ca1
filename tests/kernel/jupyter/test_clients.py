"""Who is connected, by identity and by connection."""

import os
from collections.abc import Iterator

import pytest
import zmq

from llmspell_kernel.jupyter.clients import ClientRegistry, Monitor
from support.homes import wait_until


class Connections:
    """Descriptors that are open as connections are."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def open(self) -> int:
        ours, theirs = os.pipe()
        os.close(theirs)
        self._open.add(ours)
        return ours

    def close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)

    def close_all(self) -> None:
        for descriptor in tuple(self._open):
            self.close(descriptor)


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections()
    yield made
    made.close_all()


def admit(registry: ClientRegistry, identity: bytes, descriptor: int, now: float = 0.0) -> bool:
    return registry.admit(identity, descriptor, f"session-{identity.decode()}", "somebody", now)


def sessions(registry: ClientRegistry) -> list[str]:
    return [client.session for client in registry.all()]


def test_clients_are_listed_in_the_order_in_which_they_came(connections: Connections) -> None:
    registry = ClientRegistry(5)
    for now, identity in enumerate([b"a", b"b", b"c"]):
        assert admit(registry, identity, connections.open(), float(now))

    assert sessions(registry) == ["session-a", "session-b", "session-c"]
    assert [client.connected_at for client in registry.all()] == [0.0, 1.0, 2.0]


def test_requests_are_counted(connections: Connections) -> None:
    registry = ClientRegistry(1)
    descriptor = connections.open()
    for now in range(3):
        assert admit(registry, b"a", descriptor, float(now))

    (client,) = registry.all()
    assert (client.requests, client.connected_at, client.last_active) == (3, 0.0, 2.0)


def test_one_too_many_is_refused_until_somebody_leaves(connections: Connections) -> None:
    registry = ClientRegistry(2)
    first = connections.open()
    admit(registry, b"a", first)
    admit(registry, b"b", connections.open())
    third = connections.open()

    assert not admit(registry, b"c", third)
    assert registry.refused == 1
    assert admit(registry, b"a", first)
    connections.close(first)
    registry.disconnected(first)
    assert admit(registry, b"c", third)
    assert sessions(registry) == ["session-b", "session-c"]


def test_a_departure_that_is_not_reported_yet_makes_room(connections: Connections) -> None:
    registry = ClientRegistry(1)
    first = connections.open()
    admit(registry, b"a", first)
    second = connections.open()
    connections.close(first)

    assert admit(registry, b"b", second)


def test_a_client_that_reconnects_survives_the_end_of_its_old_connection(connections: Connections) -> None:
    registry = ClientRegistry(1)
    old = connections.open()
    admit(registry, b"a", old)
    assert admit(registry, b"a", connections.open())
    connections.close(old)
    registry.disconnected(old)

    assert registry.knows(b"a")


def test_a_descriptor_that_is_given_again_belongs_to_the_new_client_alone(connections: Connections) -> None:
    registry = ClientRegistry(1)
    old = connections.open()
    admit(registry, b"a", old)
    connections.close(old)
    new = connections.open()
    assert new == old, "the system gives the lowest number"

    assert admit(registry, b"b", new)
    registry.disconnected(old)  # the late news of the first

    assert sessions(registry) == ["session-b"]


def test_the_end_of_an_unknown_connection_changes_nothing(connections: Connections) -> None:
    registry = ClientRegistry(1)
    admit(registry, b"a", connections.open())
    registry.disconnected(9999)

    assert registry.knows(b"a")


def test_a_client_without_a_descriptor_is_counted_too() -> None:
    registry = ClientRegistry(1)

    assert admit(registry, b"a", -1)
    assert not admit(registry, b"b", -1)


def test_the_limit_can_be_changed(connections: Connections) -> None:
    registry = ClientRegistry(1)
    admit(registry, b"a", connections.open())
    registry.limit = 2

    assert admit(registry, b"b", connections.open())


def test_a_monitor_tells_which_connections_ended() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        router = context.socket(zmq.ROUTER)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        monitor = Monitor(context, router)
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealer.send(b"hello")
        assert router.poll(20_000)
        frame = router.recv_multipart(copy=False)[1]
        descriptor = int(frame.get(zmq.SRCFD))
        assert monitor.ended() == []
        dealer.close(linger=0)
        ended: list[int] = []
        wait_until(lambda: ended.extend(monitor.ended()) or ended, "the end of the connection")

        assert ended == [descriptor]
        monitor.close()
    finally:
        context.destroy(linger=0)
