"""Kernels that wait for others (`depends_on`): for what, and which would wait for ever. Pure."""

from collections.abc import Mapping

from llmspell_fleet.model.kernel import Condition, Kernel, Phase


def is_met(condition: Condition, kernel: Kernel) -> bool:
    """Whether a kernel is as far as another one needs it to be."""
    match condition:
        case "started":
            return kernel.pid is not None and kernel.phase in {Phase.STARTING, Phase.READY}
        case "ready":
            return kernel.phase is Phase.READY
        case "exited_ok":
            death = kernel.last_death
            return kernel.phase is Phase.STOPPED and death is not None and death.exit_code == 0


def unmet(depends_on: Mapping[str, Condition], by_name: Mapping[str, Kernel]) -> tuple[str, ...]:
    """Of the kernels that one depends on, those that it has to wait for; one that is gone is waited for too."""
    return tuple(
        name for name, condition in depends_on.items() if name not in by_name or not is_met(condition, by_name[name])
    )


def never_comes(condition: Condition, kernel: Kernel | None) -> bool:
    """Whether only a person brings a kernel as far as another one needs it to be; None = there is none."""
    if kernel is None or kernel.phase is Phase.FAILED:
        return True
    return kernel.phase is Phase.STOPPED and not is_met(condition, kernel)


def cycle(graph: Mapping[str, Mapping[str, Condition]]) -> list[str]:
    """Names of which each depends on the next, and the last on the first; empty when there are none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in graph.get(name, {}):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    for name in graph:
        if found := visit(name, []):
            return found
    return []
