"""What an execution brings about while it runs, for everybody who subscribes, and for its caller when it is a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from llmspell_kernel.jupyter.contents import json_text
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.runs import Run
from llmspell_kernel.runtime.outbox import FLUSH_BYTES, Item, Publication, StderrText

_TEXTS: Final = frozenset((bytes, StderrText))
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
    if not data:
        return
    if run:
        run.keep(name, data)
    for number, chunk in enumerate(_chunks(data)):
        if number:
            breathe()
        quoted = json_text(chunk)
        if run:
            run.write(name, quoted)
        iopub.publish("stream", _STREAM % (name, quoted), parent)


def publish_display(iopub: IOPub, item: Publication, *, parent: bytes, run: Run | None) -> None:
    """Publish a display_data, update_display_data or clear_output."""
    content = item.content
    if run and item.kind == "display_data":
        run.display(content)
    if item.kind != "clear_output":
        transient = b"" if item.display_id is None else b'"display_id":' + json_text(item.display_id)
        content = b'{"data":%b,"metadata":{},"transient":{%b}}' % (content, transient)
    iopub.publish(item.kind, content, parent)


def _chunks(data: bytes) -> Iterator[bytes]:
    """Pieces of at most FLUSH_BYTES that split no UTF-8 sequence."""
    start = 0
    while len(data) - start > FLUSH_BYTES:
        end = start + FLUSH_BYTES
        while end > start + FLUSH_BYTES - 4 and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end]
        start = end
    yield data[start:]
