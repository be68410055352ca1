"""What an execution brings about while it runs, for everybody who subscribes, and for its caller when it is a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from llmspell_kernel.jupyter.contents import json_text
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.runs import Run
from llmspell_kernel.runtime.outbox import FLUSH_BYTES, Item, Publication, StderrText

_TEXTS: Final = frozenset((bytes, StderrText))
ESCAPED: Final = 6
"""Bytes that JSON makes of one, at most."""

LONGEST_QUOTED: Final = 2 * FLUSH_BYTES
"""ZeroMQ bounds the messages that wait for a client by their number alone: each is to be short, whatever is in it."""

_STREAM: Final = b'{"name":"%b","text":%b}'


def joined(items: Sequence[Item]) -> Iterable[Item | tuple[bytes, bytes]]:
    """The items in order, with texts of one stream that follow one another as one (stream's name, text)."""
    if _TEXTS.isdisjoint(map(type, items)):
        return items
    return _joined(items)


def _joined(items: Iterable[Item]) -> Iterator[Item | tuple[bytes, bytes]]:
    text: list[bytes] = []
    name = b"stdout"
    for item in items:
        if isinstance(item, bytes):
            stream, data = b"stdout", item
        elif isinstance(item, StderrText):
            stream, data = b"stderr", item.data
        else:
            stream, data = b"", b""
        if text and stream != name:
            yield name, b"".join(text)
            text.clear()
        name = stream
        if isinstance(item, bytes | StderrText):
            text.append(data)
        else:
            yield item
    if text:
        yield name, b"".join(text)


def publish_text(
    iopub: IOPub, name: bytes, data: bytes, *, parent: bytes, run: Run | None, breathe: Callable[[], None]
) -> None:
    """Publish text of stdout or stderr in pieces; `breathe` is called between them: others want to be heard."""
    for number, (piece, quoted) in enumerate(_pieces(data)):
        if number:
            breathe()
        if run:
            run.write(name, piece, quoted)
        iopub.publish("stream", _STREAM % (name, quoted), parent)


def publish_display(iopub: IOPub, item: Publication, *, parent: bytes, run: Run | None) -> None:
    """Publish a display_data, update_display_data or clear_output."""
    # One copy after the other: it may be as large as all that the script may write.
    if iopub.has_subscribers:
        iopub.publish(item.kind, _shown(item), parent)
    if run and item.kind == "display_data":
        run.display(item.content)


def _shown(item: Publication) -> bytes:
    if item.kind == "clear_output":
        return item.content
    transient = b"" if item.display_id is None else b'"display_id":' + json_text(item.display_id)
    return b'{"data":%b,"metadata":{},"transient":{%b}}' % (item.content, transient)


def _pieces(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Pieces of text, each also as JSON of at most `LONGEST_QUOTED`."""
    for chunk in _chunks(data, FLUSH_BYTES):
        quoted = json_text(chunk)
        if len(quoted) <= LONGEST_QUOTED:
            yield chunk, quoted
        else:
            for piece in _chunks(chunk, FLUSH_BYTES // ESCAPED):
                yield piece, json_text(piece)


def _chunks(data: bytes, most: int) -> Iterator[bytes]:
    """Pieces of at most so many bytes that split no UTF-8 sequence."""
    start = 0
    while len(data) - start > most:
        end = start + most
        while end > start + most - 4 and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]
