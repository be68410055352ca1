"""Real fleets: the `llmspell fleet` daemon in a home of its own, asked over HTTP, always taken down."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.homes import DEADLINE_S, Home, new_home, wait_until


@dataclass(frozen=True, slots=True)
class Answer:
    """What the HTTP interface answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class FleetHome:
    """A fleet's directories, and the fleet that runs in them."""

    home: Home
    url: str = ""
    pid: int = 0
    token: str = ""

    def up(self, *arguments: str, config: str = "") -> None:
        """Start the daemon on a free port; `config` is the text of its configuration file."""
        if config:
            file = self.home.path / "fleet.toml"
            file.write_text(config)
            arguments = ("--config", str(file), *arguments)
        done = self.home.llmspell("fleet", "up", "--daemon", "--port", "0", *arguments)
        assert done.returncode == 0, done.stderr
        self.find()

    def find(self) -> None:
        """Read where the fleet that runs here listens."""
        address = json.loads((self.home.runtime / "fleet.json").read_text())
        self.url, self.pid = address["url"], address["pid"]
        self.token = (self.home.state / "admin.token").read_text().strip()

    def down(self) -> None:
        """Take it down."""
        done = self.home.llmspell("fleet", "down")
        assert done.returncode == 0, done.stderr

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> Answer:
        """One request; with the admin token unless another is given ("" = none)."""
        given = self.token if token is None else token
        every = {"Content-Type": "application/json", **(headers or {})}
        if given:
            every["Authorization"] = f"Bearer {given}"
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=every)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def execute(self, code: str, tenant: str = "default", **members: object) -> Answer:
        """Run code through the balanced route."""
        return self.ask("POST", f"/v1/tenants/{tenant}/execute", {"code": code, **members})

    def kernels(self, tenant: str = "default") -> list[dict[str, Any]]:
        """A tenant's kernels."""
        kernels: list[dict[str, Any]] = self.ask("GET", f"/v1/tenants/{tenant}").json["kernels"]
        return kernels

    def wait_ready(self, tenant: str = "default") -> list[dict[str, Any]]:
        """A tenant's kernels, once all of them are READY."""
        seen: list[dict[str, Any]] = []

        def are_ready() -> bool:
            seen[:] = self.kernels(tenant)
            return all(kernel["phase"] == "READY" for kernel in seen)

        try:
            wait_until(are_ready, f"all kernels of {tenant} are READY")
        except AssertionError as error:
            raise AssertionError(f"{error}: {[(one['phase'], one['last_death']) for one in seen]}") from None
        return self.kernels(tenant)


@contextlib.contextmanager
def new_fleet(*arguments: str, config: str = "") -> Iterator[FleetHome]:
    """A fleet that serves; afterwards nothing of it is left, and its directories are gone."""
    with new_home() as home:
        fleet = FleetHome(home)
        fleet.up(*arguments, config=config)
        yield fleet


def leftovers(path: Path) -> list[Path]:
    """Everything below a runtime directory."""
    return sorted(path.rglob("*"))
