"""Analysis of Lua text: completion and inspection from what is written and from a record of the globals.

Pure: text and plain records in, plain records out. It runs no Lua, reads no file and keeps no state, so that
a kernel answers while its scripts run.
"""

from llmspell_kernel.analysis.complete import Completion, MatchType, complete
from llmspell_kernel.analysis.indent import indentation
from llmspell_kernel.analysis.inspect import Inspection, describe, inspect_at, leading_comment, target_at
from llmspell_kernel.analysis.library import KEYWORDS, LIBRARY
from llmspell_kernel.analysis.scope import Names, assigned_globals, names_at
from llmspell_kernel.analysis.symbols import Symbol, SymbolTable, standard_symbols
from llmspell_kernel.analysis.tokens import Token, lex

__all__ = [
    "KEYWORDS",
    "LIBRARY",
    "Completion",
    "Inspection",
    "MatchType",
    "Names",
    "Symbol",
    "SymbolTable",
    "Token",
    "assigned_globals",
    "complete",
    "describe",
    "indentation",
    "inspect_at",
    "leading_comment",
    "lex",
    "names_at",
    "standard_symbols",
    "target_at",
]
