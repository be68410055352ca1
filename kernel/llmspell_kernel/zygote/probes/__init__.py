"""What code that broke out of Lua would try, run inside a process that is held exactly as a kernel is.

`fleet doctor` and the hostile-tenant suite start a kernel with `StartKernel.probe`: the child is confined as any other,
runs that one probe instead of serving, and reports what became of it. A probe that is refused, or bounded, is held.
"""

from llmspell_kernel.zygote.probes.table import PROBES, attempt, take_hold

__all__ = ["PROBES", "attempt", "take_hold"]
