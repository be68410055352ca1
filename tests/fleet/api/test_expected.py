"""A value that is none of those that it may be is told with those."""

from typing import Any, Literal

import msgspec
import pytest

from llmspell_fleet.api.expected import explained
from llmspell_fleet.model.requests import SignalRequest, TenantChange, TenantRequest

Colour = Literal["red", "green"]


class Inner(msgspec.Struct):
    number: Literal[1, 2] = 1


class Outer(msgspec.Struct, rename="camel"):
    by_name: dict[str, Inner] = {}
    colours: list[Colour] = []
    inner: Inner | None = None
    size: int = 0


@pytest.mark.parametrize(
    ("type_", "body", "said"),
    [
        (
            TenantRequest,
            {"id": "a", "warm": "maybe"},
            'Expected one of "never", "prefer", "require", found \'maybe\' - at `$.warm`',
        ),
        (
            TenantChange,
            {"restart": "some`times"},
            'Expected one of "always", "never", "on-failure", null, found \'some`times\' - at `$.restart`',
        ),
        (
            SignalRequest,
            {"signal": "KILL"},
            'Expected one of "HUP", "INT", "TERM", "USR1", "USR2", found \'KILL\' - at `$.signal`',
        ),
        (Outer, {"colours": ["red", "pink"]}, 'Expected one of "green", "red", found \'pink\' - at `$.colours[1]`'),
        (Outer, {"byName": {"x": {"number": 3}}}, "Expected one of 1, 2, found 3 - at `$.byName[...].number`"),
        (Outer, {"inner": {"number": 3}}, "Expected one of 1, 2, found 3 - at `$.inner.number`"),
        (Colour, "pink", 'Expected one of "green", "red", found \'pink\''),
        (Outer, {"size": "x"}, "Expected `int`, got `str` - at `$.size`"),
    ],
)
def test_what_was_expected_is_said(type_: Any, body: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(body), type=type_)

    assert explained(caught.value, type_) == said
