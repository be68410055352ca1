"""What msgspec leaves out of its messages: which values a member may have that is one of a few."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

_NOT_ONE_OF: Final = re.compile(r"Invalid enum value (?P<found>.*?)(?P<where> - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.(?P<member>\w+)|\[[^\]]*\]")


def explained(fault: msgspec.ValidationError, type_: Any) -> str:
    """What is wrong with a value that should be a `type_`: what was expected, what was found, and where."""
    found = _NOT_ONE_OF.fullmatch(str(fault))
    if found is None:
        return str(fault)
    kinds = [inspect.type_info(type_)]
    for step in _STEP.finditer(found["path"] or ""):
        kinds = [below for kind in kinds for below in _below(kind, step["member"])]
    values = [value for kind in kinds for value in _values(kind)]
    if not values:
        return str(fault)
    shown = ", ".join(msgspec.json.encode(value).decode() for value in values)
    return f"Expected one of {shown}, found {found['found']}{found['where'] or ''}"


def _below(kind: inspect.Type, member: str | None) -> Iterator[inspect.Type]:
    """The types of a member, or of an item."""
    match kind:
        case inspect.Metadata():
            yield from _below(kind.type, member)
        case inspect.UnionType():
            for one in kind.types:
                yield from _below(one, member)
        case inspect.StructType() if member is not None:
            yield from (field.type for field in kind.fields if field.encode_name == member)
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            yield kind.item_type
        case inspect.DictType():
            yield kind.value_type


def _values(kind: inspect.Type) -> Iterator[Any]:
    match kind:
        case inspect.Metadata():
            yield from _values(kind.type)
        case inspect.UnionType():
            for one in kind.types:
                yield from _values(one)
        case inspect.LiteralType():
            yield from kind.values
        case inspect.EnumType():
            yield from (one.value for one in kind.cls)
        case inspect.NoneType():
            yield None
