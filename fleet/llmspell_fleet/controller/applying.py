"""Configurations that come while the fleet runs: read, planned, shown, and carried out in one step or not at all."""

from collections.abc import Callable

from llmspell_fleet.config.fleet import FleetConfig
from llmspell_fleet.config.reload import ReloadPlan, reload_plan
from llmspell_fleet.config.source import ConfigSource
from llmspell_fleet.config.wanted import wanted
from llmspell_fleet.controller.controller import Controller
from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.errors import BadRequestError, StoreError
from llmspell_fleet.model.plan import ApplyView
from llmspell_fleet.model.requests import ApplyRequest
from llmspell_fleet.policy.apply import Plan
from llmspell_kernel.errors import MisuseError, RefusedError


class Applying:
    """Belongs to the event loop. `on_held` is called with each configuration that holds from then on."""

    def __init__(
        self,
        controller: Controller,
        source: ConfigSource,
        config: FleetConfig,
        on_held: Callable[[FleetConfig], None],
    ) -> None:
        self._controller = controller
        self._source = source
        self._config = config
        self._on_held = on_held

    def reload(self) -> ApplyView:
        """Take what holds by the fleet's own file (SIGHUP). LlmspellError: nothing was changed, and why."""
        view = self._take(self._source.load(), prunes=False, is_dry=False)
        self._source.tidy()
        return view

    def apply(self, request: ApplyRequest) -> ApplyView:
        """Take a configuration that a client sent. BadRequestError lists all that is wrong with it."""
        try:
            config = self._source.parse(request.config, name=request.name)
        except (MisuseError, RefusedError) as fault:
            raise BadRequestError(str(fault)) from None
        return self._take(config, prunes=request.prune, is_dry=request.dry_run, text=request.config)

    def _take(self, config: FleetConfig, *, prunes: bool, is_dry: bool, text: str | None = None) -> ApplyView:
        configuring = self._controller.configuring
        keys = reload_plan(self._config, config)
        todo = configuring.plan(wanted(config), prunes=prunes)
        configuring.require_room(todo, max_kernels=keys.config.max_kernels)
        if not is_dry:
            if text is not None:
                self._keep(text)
            self._carry_out(keys, todo)
        return ApplyView(dry_run=is_dry, changes=(*keys.changes, *todo.changes), drift=todo.drift)

    def _keep(self, text: str) -> None:
        """First: what is done then is found again by a controller that follows this one."""
        try:
            self._source.keep(text, date_now())
        except (OSError, RefusedError) as fault:
            raise StoreError(f"nothing is changed, since the configuration cannot be kept: {fault}") from None

    def _carry_out(self, keys: ReloadPlan, todo: Plan) -> None:
        self._config = keys.config
        self._controller.hold(keys.config)
        self._on_held(keys.config)
        self._controller.configuring.carry_out(todo)
        changes = len(keys.changes) + len(todo.changes)
        self._controller.events.emit("fleet.reloaded", data={"changes": changes, "drift": len(todo.drift)})
