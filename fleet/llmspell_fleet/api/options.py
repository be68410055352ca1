"""What the HTTP face is given besides the fleet."""

from typing import Protocol

import msgspec

KIB = 1024
MIB = 1024 * KIB


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where is listened, for whom, and how much one client may take."""

    socket: str
    """Path of the unix socket, which is removed at the end."""
    version: str
    """Of llmspell, for the API's description."""
    host: str = "127.0.0.1"
    """As the TCP socket's was configured."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may be addressed to, besides localhost, 127.0.0.1 and ::1."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may ask, as in https://lab.example.org; :* stands for any port."""
    is_metrics_public: bool = False
    """Whether /health and /metrics need no token."""
    max_body_bytes: int = 16 * MIB
    max_followers: int = 256
    """Clients that follow events or logs at one time."""
    max_connections: int = 4096
    heartbeat_s: float = 15.0
    """A comment is sent on a stream that has been silent for so long."""
    read_timeout_s: float = 30.0
    """For a request's headers, and again for its body."""
    stall_timeout_s: float = 60.0
    """How long a client may take nothing of what it is sent."""
    keepalive_s: float = 75.0
    """How long an unused connection is kept."""
    shutdown_s: float = 5.0
    """How long requests that are being answered may take to end when the server closes."""


class MetricsPort(Protocol):
    """Where the HTTP face reports, and what it shows at /metrics."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type: Prometheus text, or OpenMetrics when `accept` asks for it."""
        ...

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered. `route` is its pattern in the table, never its path; `method` is as it came."""
        ...
