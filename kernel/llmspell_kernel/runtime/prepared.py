"""A Lua state and its outbox, made before they are needed: a zygote makes them once, and its forks inherit them."""

from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.engine import Engine
from llmspell_kernel.runtime.outbox import Outbox


class Prepared:
    """What of a kernel can be made without a thread, a socket or a descriptor."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.engine = Engine(self.outbox, KernelLimits())
