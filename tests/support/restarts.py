"""A controller that is killed, and comes back to what it had."""

import os
import signal

from support.fleets import FleetHome
from support.homes import wait_until
from support.tenants import is_gone


def kill_controller(fleet: FleetHome) -> None:
    """SIGKILL, and it is gone; its kernels are not."""
    os.kill(fleet.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(fleet.pid), "the controller is gone")


def up_again(fleet: FleetHome) -> None:
    """Start the next one, with the configuration that the last one had."""
    fleet.up("--config", str(fleet.home.path / "fleet.toml"))
