"""TOML into msgspec structs, with errors for people: every problem of a file at once, each with its key.

A struct is a table, its fields are the keys, their types and `msgspec.Meta` bounds are what is accepted;
what the fields mean is not this module's business. `Duration` and `Size` fields take units, `Secret` ones
are never shown, ``${NAME}`` in a text is replaced from the environment and ``$${`` stands for ``${``.
"""

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import inspect as kinds

from llmspell_kernel import units
from llmspell_kernel.errors import MisuseError

Duration = Annotated[float, msgspec.Meta(ge=0, le=100 * 365 * 86_400, extra={"unit": "duration"})]
"""Seconds, up to a hundred years; files may write "30s"."""

Size = Annotated[int, msgspec.Meta(ge=0, le=2**50, extra={"unit": "size"})]
"""Bytes, up to a pebibyte; files may write "10MB"."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Secret = Annotated[str, msgspec.Meta(min_length=1, extra={"secret": True})]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""A TCP port; 0 = whichever is free."""

_T = TypeVar("_T", bound=msgspec.Struct)
_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)\}")
_LONGEST_SHOWN = 60
_TABLES = (kinds.StructType, kinds.DictType)
_MOST = {"duration": ", at most 36500d", "size": ", at most 1048576GB"}
_UNITS = {"duration": units.DURATION, "size": units.SIZE}


class ConfigurationError(MisuseError):
    """A configuration that cannot be meant; `problems` has a line for each thing wrong with it."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = tuple(problems)


class Key(msgspec.Struct, frozen=True):
    """One key that a file may hold."""

    path: tuple[str, ...]
    kind: Any
    """A type of `msgspec.inspect`."""
    secret: bool


def load(path: str, table: type[_T], *, environ: Mapping[str, str] | None = None) -> _T:
    """Read the file at `path` as one `table`. ConfigurationError lists everything wrong with it."""
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError as error:
        raise ConfigurationError(path, [f"the file cannot be read: {error.strerror}"]) from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(path, [f"not UTF-8 text: byte {error.start}"]) from None
    return decode(text, table, source=path, environ=environ)


def decode(text: str, table: type[_T], *, source: str, environ: Mapping[str, str] | None = None) -> _T:
    """Read TOML `text` as one `table`; `source` names it in messages."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(source, [f"not TOML: {error}"]) from None
    except RecursionError:
        raise ConfigurationError(source, ["not a configuration: arrays or tables nested without end"]) from None
    reader = _Reader(os.environ if environ is None else environ)
    loaded = reader.read_table(kinds.type_info(table), data, ())
    if reader.problems:
        raise ConfigurationError(source, reader.problems)
    assert isinstance(loaded, table)
    return loaded


def keys(table: type[msgspec.Struct]) -> Iterator[Key]:
    """Every key below `table`, depth first; ``*`` stands for a name of the user's choosing."""
    yield from _keys(kinds.type_info(table), ())


def _keys(kind: kinds.Type, path: tuple[str, ...]) -> Iterator[Key]:
    bare, extra = unwrap(kind)
    match bare:
        case kinds.StructType():
            for field in bare.fields:
                yield from _keys(field.type, (*path, field.encode_name))
        case kinds.DictType():
            yield from _keys(bare.value_type, (*path, "*"))
        case kinds.ListType(item_type=kinds.StructType()):
            yield from _keys(bare.item_type, path)
        case _:
            yield Key(path, kind, bool(extra.get("secret")))


def unwrap(kind: kinds.Type) -> tuple[kinds.Type, Mapping[str, Any]]:
    """The type that counts, without "or None", and the `extra` that was said about it."""
    extra: Mapping[str, Any] = {}
    while True:
        if isinstance(kind, kinds.Metadata):
            extra = {**extra, **(kind.extra or {})}
            kind = kind.type
        elif isinstance(kind, kinds.UnionType):
            (kind,) = (member for member in kind.types if not isinstance(member, kinds.NoneType))
        else:
            return kind, extra


def named(path: Sequence[str]) -> str:
    """A key as the file's author sees it: ``[jupyter.ports] shell_port``."""
    *tables, key = path
    return f"[{'.'.join(tables)}] {key}" if tables else key


class _Reader:
    """Reads one file; `problems` grows, and what is wrong has None in its place."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ

    def read_table(self, kind: kinds.Type, data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
        assert isinstance(kind, kinds.StructType)
        fields = {field.encode_name: field for field in kind.fields}
        values = {}
        for key, value in data.items():
            if key not in fields:
                self._unknown(key, value, fields, path)
            else:
                values[fields[key].name] = self._read(fields[key].type, value, (*path, key))
        for name, field in fields.items():
            if field.required and name not in data:
                self.problems.append(f"{named((*path, name))}: is missing, expected {describe(field.type)}")
        return None if self.problems else kind.cls(**values)

    def _unknown(self, key: str, value: object, fields: Mapping[str, Any], path: tuple[str, ...]) -> None:
        import difflib

        (nearest,) = difflib.get_close_matches(key, list(fields), n=1, cutoff=0)
        is_table = isinstance(value, dict) and isinstance(unwrap(fields[nearest].type)[0], _TABLES)
        if is_table:
            here, there = f"[{'.'.join((*path, key))}]", f"[{'.'.join((*path, nearest))}]"
            self.problems.append(f"{here}: there is no such table; the nearest is {there}")
        else:
            self.problems.append(f"{named((*path, key))}: there is no such key; the nearest is {nearest}")

    def _read(self, kind: kinds.Type, value: Any, path: tuple[str, ...]) -> Any:
        bare, extra = unwrap(kind)
        match bare:
            case kinds.StructType() if isinstance(value, dict):
                return self.read_table(bare, value, path)
            case kinds.DictType() if isinstance(value, dict):
                return {key: self._read(bare.value_type, item, (*path, key)) for key, item in value.items()}
            case kinds.ListType() | kinds.VarTupleType() if isinstance(value, list):
                *tables, key = path
                items = [
                    self._read(bare.item_type, item, (*tables, f"{key}[{index}]")) for index, item in enumerate(value)
                ]
                return items if isinstance(bare, kinds.ListType) else tuple(items)
        if isinstance(value, str):
            value = self._expand(value, path)
            if value is None:
                return None
        try:
            return _scalar(bare, extra, value)
        except ValueError:
            found = "something else (not shown: it is a secret)" if extra.get("secret") else show(value)
            self.problems.append(f"{named(path)}: expected {describe(kind)}, found {found}")
            return None

    def _expand(self, text: str, path: tuple[str, ...]) -> str | None:
        missing = []

        def replace(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped:
                return match[0][1:]
            if name not in self._environ:
                missing.append(name)
                return ""
            return self._environ[name]

        expanded = _VARIABLE.sub(replace, text)
        for name in missing:
            self.problems.append(
                f"{named(path)}: the environment variable {name or '(without a name)'} is not set: "
                "set it, or write $${…} for a text that is meant as it stands"
            )
        return None if missing else expanded


def _scalar(kind: kinds.Type, extra: Mapping[str, Any], value: Any) -> Any:
    """`value` as the field wants it; ValueError when it cannot be."""
    match extra.get("unit"):
        case "duration" if isinstance(value, str | int | float):
            return _bounded(kind, units.parse_duration(value))
        case "size" if isinstance(value, str | int):
            return _bounded(kind, units.parse_size(value))
    try:
        # Strict: a text that looks like a number is still a text.
        converted = msgspec.convert(value, _python_type(kind))
    except msgspec.ValidationError:
        raise ValueError from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError
    return converted


def _bounded(kind: kinds.Type, number: float) -> float:
    assert isinstance(kind, kinds.IntType | kinds.FloatType)
    if kind.le is not None and number > kind.le:
        raise ValueError
    return number


def _python_type(kind: kinds.Type) -> Any:
    match kind:
        case kinds.BoolType():
            return bool
        case kinds.IntType():
            return Annotated[int, msgspec.Meta(ge=kind.ge, le=kind.le)]
        case kinds.FloatType():
            return Annotated[float, msgspec.Meta(ge=kind.ge, le=kind.le)]
        case kinds.StrType():
            return Annotated[str, msgspec.Meta(min_length=kind.min_length, pattern=kind.pattern)]
        case kinds.LiteralType():
            from typing import Literal

            return Literal[kind.values]
    raise ValueError


def describe(kind: kinds.Type) -> str:
    """What a key accepts, in words."""
    bare, extra = unwrap(kind)
    unit = extra.get("unit")
    return _UNITS[unit] + _MOST[unit] if unit else _describe_bare(bare)


def _describe_bare(bare: kinds.Type) -> str:
    match bare:
        case kinds.BoolType():
            return "true or false"
        case kinds.IntType():
            return f"a whole number{_bounds(bare)}"
        case kinds.FloatType():
            return f"a number{_bounds(bare)}"
        case kinds.StrType():
            return "a text that is not empty" if bare.min_length else "a text"
        case kinds.LiteralType():
            return "one of " + ", ".join(f'"{value}"' for value in bare.values)
        case kinds.ListType() | kinds.VarTupleType():
            return f"a list, each item {describe(bare.item_type)}"
    return "a table"


def _bounds(kind: kinds.IntType | kinds.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    return f" of at least {kind.ge}" if kind.ge is not None else ""


def show(value: object) -> str:
    """A value from a TOML file with the name of its type, cut when it is long."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            shown = f"the text {value!r}"
        case int() | float():
            shown = f"the number {value}"
        case list():
            shown = f"the list {value!r}"
        case dict():
            shown = "a table"
        case _:
            shown = f"the date or time {value}"
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
