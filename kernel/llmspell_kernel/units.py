"""Durations and sizes as people write them: "30s", "1h30m", "512MiB". Pure.

A bare number is seconds, or bytes. Every size unit counts by 1024, whichever way it is spelled (``KB`` =
``KiB`` = 1024 bytes), as systemd and most tools that limit memory do: a limit is never smaller than it
looks.
"""

import math
import re

_SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
_BYTES: dict[str, int] = {"b": 1} | {
    spelling: 1024**power
    for power, letter in enumerate("kmgt", start=1)
    for spelling in (letter, f"{letter}b", f"{letter}ib")
}

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)

DURATION = 'a duration such as 30, "30s", "500ms", "1h30m" or "7d" (bare numbers are seconds)'
SIZE = 'a size such as 1048576, "512KB", "10MB" or "1GB" (bare numbers are bytes, a KB is 1024)'


def parse_duration(value: str | float) -> float:
    """Seconds. ValueError says what was expected and what was found."""
    if isinstance(value, str):
        return _parse_duration_text(value)
    if isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError(f"expected {DURATION}, found {value!r}")
    return float(value)


def _parse_duration_text(text: str) -> float:
    stripped = text.strip().lower()
    if _NUMBER.fullmatch(stripped):
        return float(stripped)
    total, position = 0.0, 0
    while part := _PART.match(stripped, position):
        number, unit = part.groups()
        if unit not in _SECONDS:
            raise ValueError(f"expected {DURATION}, found {text!r}: there is no unit {unit!r}")
        total += float(number) * _SECONDS[unit]
        position = part.end()
    if position == 0 or position != len(stripped):
        raise ValueError(f"expected {DURATION}, found {text!r}")
    return round(total, 6)


def parse_size(value: str | int) -> int:
    """Bytes. ValueError says what was expected and what was found."""
    if isinstance(value, str):
        return _parse_size_text(value)
    if isinstance(value, bool) or value < 0:
        raise ValueError(f"expected {SIZE}, found {value!r}")
    return value


def _parse_size_text(text: str) -> int:
    stripped = text.strip().lower()
    if stripped.isascii() and stripped.isdigit():
        return int(stripped)
    part = _PART.fullmatch(stripped)
    if part is None:
        raise ValueError(f"expected {SIZE}, found {text!r}")
    number, unit = part.groups()
    if unit not in _BYTES:
        raise ValueError(f"expected {SIZE}, found {text!r}: there is no unit {unit!r}")
    if "." not in number:
        return int(number) * _BYTES[unit]
    size = float(number) * _BYTES[unit]
    if not size.is_integer():
        raise ValueError(f"expected {SIZE}, found {text!r}, which is not a whole number of bytes")
    return int(size)


def format_duration(seconds: float) -> str:
    """The way `parse_duration` reads back, exact to the millisecond: 5400 is ``1h30m``."""
    remaining = round(seconds * 1000)
    if remaining == 0:
        return "0s"
    parts = []
    for unit, length_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, remaining = divmod(remaining, length_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def format_size(size_bytes: int) -> str:
    """The way `parse_size` reads back, in the largest unit that divides it: 536870912 is ``512MB``."""
    for unit, length in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if size_bytes and size_bytes % length == 0:
            return f"{size_bytes // length}{unit}"
    return f"{size_bytes}B"
