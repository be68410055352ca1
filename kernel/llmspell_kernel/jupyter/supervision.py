"""What only a supervisor asks, on the shell channel: to be claimed, culled, adopted, held to other limits.

It proves itself by what it told the kernel at its start: `{"proof": …}` in the metadata. Clients hold the key too, and
must not lift what holds their scripts, take a kernel away from its supervisor, or have it say whose it is.

`expire_request` (`{"ticket": n}`): that run's time is over at its supervisor's, and it is not to begin any more.
`expire_reply` says in `begun` whether it has: then its own reply comes. `interrupt_request` is as on control, but in
line with the runs, so that it hits none which was sent later.
"""

from collections.abc import Callable
from functools import partial
from hmac import compare_digest
from time import monotonic
from typing import Annotated, Final

import msgspec

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.claims import Claim, ClaimRequest
from llmspell_kernel.jupyter.contents import LimitsRequest, encode
from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.lifetime import CullRequest, Lifetime
from llmspell_kernel.jupyter.succession import AdoptRequest, Kept, Succession
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.options import LogOptions
from llmspell_kernel.wire.jupyter import Message

Reply = Callable[[Message, str, bytes], None]


class ExpireRequest(msgspec.Struct, gc=False):
    """The content of `expire_request`."""

    ticket: Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class Proof(msgspec.Struct, gc=False):
    """The metadata of what only a supervisor asks."""

    proof: str = ""


_decode_adopt: Final = msgspec.json.Decoder(AdoptRequest).decode
_decode_claim: Final = msgspec.json.Decoder(ClaimRequest).decode
_decode_cull: Final = msgspec.json.Decoder(CullRequest).decode
_decode_expire: Final = msgspec.json.Decoder(ExpireRequest).decode
_decode_limits: Final = msgspec.json.Decoder(LimitsRequest).decode
_decode_proof: Final = msgspec.json.Decoder(Proof).decode


class Supervision:
    """The handlers, by the type of the message. Belongs to the I/O thread."""

    def __init__(
        self,
        succession: Succession,
        lifetime: Lifetime,
        executions: Executions,
        diagnostics: Diagnostics,
        *,
        reply: Reply,
        on_limits: Callable[[KernelLimits], None],
        on_interrupt: Callable[[], object],
        on_expire: Callable[[int], bool],
    ) -> None:
        self._succession = succession
        self._lifetime = lifetime
        self._executions = executions
        self._diagnostics = diagnostics
        self._reply = reply
        self._on_expire = on_expire
        self.on_limits = on_limits
        """Called with other limits, which the supervisor asks for."""
        self.proof = ""
        """What a supervisor proves itself by, since clients have the key too; "" = there is none."""
        self.say_again: Callable[[Kept], None] = lambda _kept: None
        """Called with a reply that a supervisor's successor has to hear."""
        self.claim = Claim(None, "", LogOptions(), diagnostics)
        demands: dict[str, Callable[[Message], object]] = {
            "adopt_request": self._adopt,
            "claim_request": self._claim,
            "cull_request": lambda message: self._lifetime.cull(_decode_cull(message.content_bytes)),
            "expire_request": self._expire,
            "limits_request": self._limit,
        }
        self.handlers: dict[str, Callable[[Message], object]] = {
            **{kind: partial(self._demanded, handle) for kind, handle in demands.items()},
            # Clients may have that done on control.
            "interrupt_request": lambda _message: on_interrupt(),
        }

    def _demanded(self, handle: Callable[[Message], object], message: Message) -> None:
        """Clients hold the key that signs messages, and are not the supervisor."""
        ours = self.proof.encode()
        if ours and compare_digest(_decode_proof(message.metadata_bytes).proof.encode("utf-8", "replace"), ours):
            handle(message)
            return
        kind = message.header.msg_type
        text = f"only this kernel's supervisor may send a {kind}"
        self._diagnostics.warn("demand_refused", text)
        error = {"status": "error", "ename": "Refused", "evalue": text, "traceback": []}
        self._reply(message, kind.removesuffix("_request") + "_reply", encode(error))

    def _adopt(self, message: Message) -> None:
        asked = _decode_adopt(message.content_bytes)
        reply, again = self._succession.take_over(message.header, asked, self._executions.runs())
        self._reply(message, "adopt_reply", reply)
        for kept in again:
            self.say_again(kept)

    def _claim(self, message: Message) -> None:
        self._lifetime.used(monotonic())
        self.claim.accept(_decode_claim(message.content_bytes))

    def _expire(self, message: Message) -> None:
        is_in_time = self._on_expire(_decode_expire(message.content_bytes).ticket)
        self._reply(message, "expire_reply", b'{"begun":false}' if is_in_time else b'{"begun":true}')

    def _limit(self, message: Message) -> None:
        self.on_limits(_decode_limits(message.content_bytes).limits)
        self._reply(message, "limits_reply", b'{"status":"ok"}')
