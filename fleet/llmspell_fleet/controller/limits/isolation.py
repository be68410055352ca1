"""How strongly kernels are kept apart: which level one may have here, whose user it becomes, and what that holds."""

import asyncio
from collections.abc import Callable, Collection

from msgspec.structs import replace

from llmspell_fleet.controller.kernels.hold import StorageLayer
from llmspell_fleet.controller.limits.rlimits import may_raise
from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.isolation import Strength, Survey
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_fleet.policy.isolation import choose_uid, missing, strength
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.zygote.protocol import Confinement


class Isolation:
    """Belongs to the event loop. The machine is surveyed once, when somebody first asks for `strict`."""

    def __init__(self, take_survey: Callable[[], Survey], uids: tuple[int, int], *, allows_weaker: bool) -> None:
        self._take_survey = take_survey
        self._uids = uids
        self._survey: Survey | None = None
        self._allows_weaker = allows_weaker
        self._views: dict[IsolationLevel, Strength] = {}

    async def granted(self, level: IsolationLevel) -> IsolationLevel:
        """The level that is given to who asks for `level`. ConflictError: this machine cannot, and why."""
        if level != "strict":
            return level
        if self._survey is None:
            self._keep(await asyncio.to_thread(self._take_survey))
        reasons = missing(self._survey_now())
        if not reasons:
            return level
        if self._allows_weaker:
            return "process"
        raise ConflictError(
            f"isolation_level strict cannot be had on this machine: {'; '.join(reasons)}. "
            "Use process, or start the fleet with --allow-weaker-isolation"
        )

    def confined(self, spec: KernelSpec, confinement: Confinement) -> Confinement:
        """`confinement` with what the kernel's level adds. RefusedError: this machine cannot, and why."""
        if spec.isolation_level != "strict":
            return confinement
        survey = self._survey_now()
        if reasons := missing(survey):
            raise RefusedError(f"isolation level strict cannot be had on this machine: {'; '.join(reasons)}")
        if survey.is_root and spec.uid is None:
            raise RefusedError(self._no_user())
        return replace(
            confinement, level="strict", uid=spec.uid if survey.is_root else None, namespaces=survey.namespaces
        )

    def uid_for(self, taken: Collection[int], *, after: int | None) -> int | None:
        """A user for a tenant's kernels, which none of `taken` is; None = there is none, or none is needed."""
        return choose_uid(*self._uids, taken, after=after) if self._survey_now().is_root else None

    def may_give(self, uid: int) -> bool:
        """Whether a user is one of those for tenants' kernels."""
        return self._uids[0] <= uid <= self._uids[1]

    def require_uid(self, taken: Collection[int]) -> None:
        """ConflictError when one is needed and there is none left."""
        if self._survey_now().is_root and choose_uid(*self._uids, taken) is None:
            raise ConflictError(self._no_user())

    def _no_user(self) -> str:
        first, last = self._uids
        return f"every user from {first} to {last} is some tenant's: give [security] uid_range a wider range"

    def strength(self, level: IsolationLevel) -> Strength:
        """What a level holds here, and what it leaves open."""
        view = self._views.get(level)
        if view is None:
            view = self._views[level] = strength(level, self._survey_now() if level == "strict" else None)
        return view

    def storage(self, level: IsolationLevel) -> StorageLayer:
        """What bounds the files that a kernel of a level may write."""
        if level != "strict":
            return "rlimit"
        return "tmpfs" if "own_root" in self.strength(level).layers else "landlock"

    def raisable(self) -> dict[str, frozenset[str]]:
        """Limits whose bound of a running process may be raised from outside, by level."""
        of_rlimits = {"files", "storage_bytes"} if may_raise() else set[str]()
        of_own_root = {"storage_bytes"} if self._survey is not None and self._survey.namespaces == "mount" else set()
        at_strict = (of_rlimits - {"storage_bytes"}) | of_own_root
        return {"process": frozenset(of_rlimits), "strict": frozenset(at_strict)}

    def _survey_now(self) -> Survey:
        return self._survey or self._keep(self._take_survey())

    def _keep(self, survey: Survey) -> Survey:
        if not survey.fault:
            self._survey = survey
        return survey
