"""One examination of this machine: a throwaway fleet, every trial in turn, and what they come to."""

import asyncio
import logging
import os
import platform
from collections.abc import Callable

from llmspell_fleet.doctor.findings import Finding, Report, is_sound
from llmspell_fleet.doctor.isolation import WAYS_OUT, targets, try_way_out
from llmspell_fleet.doctor.limits import TRIALS, try_limit
from llmspell_fleet.doctor.site import Site, throwaway_fleet
from llmspell_fleet.errors import FleetError
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_kernel.errors import RefusedError

Progress = Callable[[int, int, str], None]
"""Told before each trial: its number, how many there are, and what it is about."""


def examine(level: IsolationLevel, progress: Progress) -> Report:
    """Examine this machine. RefusedError: no kernel of this level can be started at all."""
    import uvloop

    log = logging.getLogger("llmspell")
    # Kernels are killed here, which is no news to anybody.
    silent = logging.NullHandler()
    log.addHandler(silent)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_examine(level, progress))
    finally:
        log.removeHandler(silent)


async def _examine(level: IsolationLevel, progress: Progress) -> Report:
    async with throwaway_fleet(level) as site:
        try:
            await site.tenant("first")
        except FleetError as fault:
            raise RefusedError(f"no kernel of isolation level {level} can be started here: {fault}") from None
        findings = [*await _limits(site, progress), *await _isolation(site, progress)]
        return Report(
            level=level,
            user=os.geteuid(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            findings=tuple(findings),
            missing={str(name): why for name, why in site.controller.supervisor.holder.cgroups.missing.items()},
            is_sound=is_sound(findings),
        )


async def _limits(site: Site, progress: Progress) -> list[Finding]:
    findings = []
    for number, (shown, trial) in enumerate(TRIALS, 1):
        progress(number, len(TRIALS) + len(WAYS_OUT), shown)
        findings.append(await try_limit(site, shown, trial))
        await site.remove_tenants()
    return findings


async def _isolation(site: Site, progress: Progress) -> list[Finding]:
    neighbour = await site.tenant("neighbour")
    prisoner = await site.tenant("prisoner")
    findings = []
    with targets(site, neighbour) as aim:
        for number, way in enumerate(WAYS_OUT, len(TRIALS) + 1):
            progress(number, len(TRIALS) + len(WAYS_OUT), way.what)
            findings.append(await try_way_out(site, prisoner, way, aim))
    return findings
