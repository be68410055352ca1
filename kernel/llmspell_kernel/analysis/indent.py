"""How far the next line of unfinished code should be indented."""

from llmspell_kernel.analysis.tokens import lex

STEP = "  "
"""One level, where the code itself shows none."""

_OPENS = frozenset(("function", "do", "then", "repeat", "else", "{", "("))
_CLOSES = frozenset(("end", "until", "elseif", "}", ")"))


def indentation(code: str) -> str:
    """The white space that belongs before the line after `code`."""
    last = code.rstrip().rpartition("\n")[2]
    kept = last[: len(last) - len(last.lstrip())]
    depth = 0
    for token in lex(last):
        depth += (token.text in _OPENS) - (token.text in _CLOSES and depth > 0)
    return kept + STEP if depth > 0 else kept
