"""Where sessions live, kept across the controller's death in a mapped file: nothing is written on the way of a request.

A request of a session that is where it was before changes nothing here. When a session comes for the first time, moves,
or meets another incarnation, a record is copied into memory that is a page of the file: no system call, and it is there
after `kill -9` at any moment, since the page is the system's. Space is reserved before it is mapped, so that a full
disk is an error here and not the end of the process.
"""

import asyncio
import logging
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId

_LOG: Final = logging.getLogger("llmspell.fleet")

_MAGIC: Final = b"LSHOMES1"
_LENGTH_BYTES: Final = 4

STEP_BYTES: Final = 1024 * 1024
"""By so much the file grows."""

WASTE_BYTES: Final = 4 * 1024 * 1024
"""The file is written anew once so much of it, and most of it, is out of date."""


class Visit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last that is known of a session. One without `kernel` says that the tenant is forgotten."""

    tenant: TenantId
    session: str
    home: KernelId | None
    """Where it lives; None = it is placed anew."""
    kernel: KernelId | None = None
    incarnation: int = 0
    """Whom it met last."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Visit).decode


class Homes:
    """The file, once there is one. Belongs to the event loop."""

    def __init__(self) -> None:
        self._path = ""
        self._map: mmap.mmap | None = None
        self._descriptor = -1
        self._end = len(_MAGIC)
        self._since: list[Visit] | None = None
        """What is noted while the file is written anew."""
        self._live_bytes = 0
        """What the last writing anew took."""
        self.visits: dict[tuple[TenantId, str], Visit] = {}
        """What an earlier controller had noted; for `Tenant.remember`."""

    def open(self, path: str) -> None:
        """Read what there is, and take notes from now on; when that cannot be, say so and take none."""
        self._path = path
        try:
            self.visits = _last_words(_read(self._path))
            self._begin(self.visits.values())
        except OSError as fault:
            self._give_up(fault)

    def note(self, visit: Visit) -> None:
        """Remember it."""
        if self._map is None:
            return
        try:
            payload = _encode(visit)
        except UnicodeEncodeError:
            return  # half a surrogate pair: such a session is remembered by this controller alone
        if self._since is not None:
            self._since.append(visit)
        try:
            self._append(payload)
        except OSError as fault:
            self._give_up(fault)
            return
        waste = self._end - self._live_bytes
        if waste > WASTE_BYTES and waste > self._live_bytes and self._since is None:
            self._since = []
            self._rewrite()

    def forget(self, tenant: TenantId) -> None:
        """The tenant is gone, and a later one of its name has other sessions."""
        self.note(Visit(tenant, "", None))

    def close(self) -> None:
        """Take no more notes."""
        if self._map is not None:
            self._map.close()
            os.close(self._descriptor)
            self._map = None

    def _give_up(self, fault: OSError) -> None:
        _LOG.warning(
            "where sessions live cannot be kept in %s (%s): a controller that comes after this one places them anew",
            self._path,
            fault.strerror or fault,
        )
        self.close()

    # --- the file

    def _append(self, payload: bytes) -> None:
        assert self._map is not None
        begin, end = self._end + _LENGTH_BYTES, self._end + _LENGTH_BYTES + len(payload)
        if end + _LENGTH_BYTES > len(self._map):
            size = len(self._map) + STEP_BYTES
            os.posix_fallocate(self._descriptor, 0, size)
            self._map.resize(size)
        self._map[begin:end] = payload
        # Last: until it is there, a reader sees the end of the file here.
        self._map[self._end : begin] = len(payload).to_bytes(_LENGTH_BYTES, "little")
        self._end = end

    def _begin(self, visits: Iterable[Visit]) -> None:
        """Write the file anew, and map it."""
        descriptor, end = _written(f"{self._path}.new", visits)
        self._take(descriptor, end)

    def _take(self, descriptor: int, end: int) -> None:
        try:
            mapped = mmap.mmap(descriptor, 0)
            os.replace(f"{self._path}.new", self._path)
        except BaseException:
            os.close(descriptor)
            raise
        self.close()
        self._map, self._descriptor, self._end, self._live_bytes = mapped, descriptor, end, end

    def _rewrite(self) -> None:
        """Write what still holds into a new file, in another thread; what is noted meanwhile comes after it."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(
            None, lambda: _written(f"{self._path}.new", _last_words(_read(self._path)).values())
        )
        work.add_done_callback(self._rewritten)

    def _rewritten(self, work: "asyncio.Future[tuple[int, int]]") -> None:
        since, self._since = self._since or [], None
        if work.cancelled():
            return
        if self._map is None:
            if work.exception() is None:
                os.close(work.result()[0])
            return
        try:
            self._take(*work.result())
        except OSError as fault:
            self._give_up(fault)
            return
        for visit in since:
            self.note(visit)


def _read(path: str) -> Iterator[Visit]:
    """All records, up to the first that cannot be one."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        return
    if not content.startswith(_MAGIC):
        _LOG.warning("%s holds no sessions of ours, and is written anew", path)
        return
    at = len(_MAGIC)
    while length := int.from_bytes(content[at : at + _LENGTH_BYTES], "little"):
        at += _LENGTH_BYTES
        try:
            visit = _decode(content[at : at + length])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            _LOG.warning("%s is damaged at byte %d: sessions noted after that are placed anew", path, at)
            return
        yield visit
        at += length


def _last_words(visits: Iterable[Visit]) -> dict[tuple[TenantId, str], Visit]:
    """The last record of each session, the oldest first."""
    last: dict[tuple[TenantId, str], Visit] = {}
    for visit in visits:
        if visit.kernel is None:
            last = {key: one for key, one in last.items() if one.tenant != visit.tenant}
            continue
        key = visit.tenant, visit.session
        last.pop(key, None)
        last[key] = visit
    return last


def _written(path: str, visits: Iterable[Visit]) -> tuple[int, int]:
    """A new file with these records: its descriptor, and where they end."""
    pieces = [_MAGIC]
    for visit in visits:
        payload = _encode(visit)
        pieces += len(payload).to_bytes(_LENGTH_BYTES, "little"), payload
    content = b"".join(pieces)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, (len(content) // STEP_BYTES + 1) * STEP_BYTES)
        os.pwrite(descriptor, content, 0)
    except BaseException:
        os.close(descriptor)
        os.unlink(path)
        raise
    return descriptor, len(content)
