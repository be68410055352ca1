"""Routes about single kernels."""

from collections.abc import Callable

import msgspec

from llmspell_fleet.api.answers import Answer, Reply, json_answer, no_content
from llmspell_fleet.api.call import Call
from llmspell_fleet.api.queries import LogsQuery, SelectionQuery, selected
from llmspell_fleet.api.streams import EVENTS, LINES, Numbered, follow, frame, resumed_since, wants_events
from llmspell_fleet.model.requests import DrainRequest, KernelRequest, SignalRequest
from llmspell_fleet.model.views import LogLine, Page


async def create(call: Call, body: KernelRequest) -> Reply:
    """Add one kernel to a tenant, whose replicas grow by one."""
    created = await call.fleet.create_kernel(body)
    return json_answer(created, 201, headers={"Location": f"/v1/kernels/{created.id}"})


async def listing(call: Call, query: SelectionQuery) -> Reply:
    """All kernels; with a tenant's token, that tenant's. A kernel has its tenant's labels besides its own."""
    return json_answer(Page(items=selected(call.fleet.kernels(call.owner), query)))


async def show(call: Call) -> Reply:
    """One kernel: its phase, process, usage, limits and last death."""
    return json_answer(call.fleet.kernel(call.kernel, call.owner))


async def delete(call: Call) -> Reply:
    """End a kernel; its tenant's replicas shrink by one. Answered when it is gone."""
    await call.fleet.delete_kernel(call.kernel, call.owner)
    return no_content()


async def interrupt(call: Call) -> Reply:
    """Interrupt what a kernel runs."""
    await call.fleet.interrupt_kernel(call.kernel, call.owner)
    return no_content()


async def restart(call: Call) -> Reply:
    """Give a kernel a new process, also when it had FAILED; answered when it is READY."""
    return json_answer(await call.fleet.restart_kernel(call.kernel, call.owner))


async def signal(call: Call, body: SignalRequest) -> Reply:
    """Forward a signal to a kernel's process.

    INT interrupts what runs; TERM ends the process, and the kernel's `restart` says what follows; HUP reopens its log,
    USR1 writes statistics to it, USR2 switches its debug level.
    """
    call.fleet.signal_kernel(call.kernel, call.owner, body.signal)
    return no_content()


async def signal_all(call: Call, body: SignalRequest) -> Reply:
    """Forward a signal to the processes of all kernels."""
    call.fleet.signal_all(body.signal)
    return no_content()


async def drain(call: Call, body: DrainRequest) -> Reply:
    """Let a kernel finish what it runs, and end: it takes no more work at once.

    It then stays down until it is restarted, by a person; with `restart` a new process follows. Answered when that is
    so, or when `wait_s` is over.
    """
    return json_answer(await call.fleet.drain_kernel(call.kernel, call.owner, body))


async def drain_all(call: Call, body: DrainRequest) -> Reply:
    """Let all kernels finish what they run, and end; answered as for one."""
    return json_answer(Page(items=await call.fleet.drain_all(body)))


async def why(call: Call) -> Reply:
    """Why a kernel is as it is, and what will happen to it next, when, and by which setting.

    Also of one that has left for good, with `phase` "GONE", as long as that is remembered.
    """
    return json_answer(await call.fleet.why(call.kernel, call.owner))


async def logs(call: Call, query: LogsQuery) -> Reply:
    """What a kernel wrote to its standard output and error.

    Lines of `<sequence number> <time> <text>`, or with `Accept: text/event-stream` Server-Sent Events with the sequence
    number as `id`. With `follow`, the answer goes on as lines come. `grep` is a plain substring, not a pattern.
    """
    call.fleet.kernel(call.kernel, call.owner)
    since = resumed_since(call, query.since)
    form, encode = (EVENTS, _as_event) if wants_events(call) else (LINES, _as_text)
    numbered = Numbered(_filtered(encode, query.grep), form, since)
    if query.follow:
        return await follow(call, call.fleet.follow_logs(call.kernel, call.owner, since=since), numbered, form)
    kept = call.fleet.logs(call.kernel, call.owner, since=since)
    return Answer(200, b"".join(map(numbered, kept)), form.content_type)


def _as_text(line: LogLine) -> bytes:
    return f"{line.seq} {line.at} {line.text}\n".encode("utf-8", "backslashreplace")


def _as_event(line: LogLine) -> bytes:
    return frame("log", msgspec.json.encode(line), line.seq)


def _filtered(encode: Callable[[LogLine], bytes], grep: str | None) -> Callable[[LogLine], bytes]:
    if grep is None:
        return encode
    return lambda line: encode(line) if grep in line.text else b""
