"""Cells that ask about a name, `string.format?` or `?f`, with a second question mark for the definition too.

Front ends show the answer in their pager. No Lua is written like that, so that no script is mistaken for a question.
"""

import re
from typing import Final

import msgspec

LONGEST: Final = 300
"""Characters of a question; what is longer is code."""

_QUESTION: Final = re.compile(r"(\?{0,2})\s*([A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)*)\s*(\?{0,2})", re.ASCII)


class Question(msgspec.Struct, frozen=True, gc=False):
    """What a cell asks about, and whether it wants the definition."""

    name: str
    detail_level: int


def question(code: str) -> Question | None:
    """What a cell asks; None when it is code."""
    if "?" not in code or len(code := code.strip()) > LONGEST:
        return None
    match = _QUESTION.fullmatch(code)
    return match and Question(match[2], int("??" in (match[1], match[3])))
