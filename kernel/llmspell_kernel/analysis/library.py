"""What a script finds in its global environment: signatures and descriptions, and Lua's keywords.

Plain literals and nothing else: every kernel loads this module, and few are asked for it often.
Names are dotted paths, also for the methods of streams (`io.stdout.write`).
"""

from __future__ import annotations

KEYWORDS = frozenset(
    (
        "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
        "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
    )
)  # fmt: skip
"""The reserved words of Lua 5.4."""

LIBRARY: dict[str, tuple[str, str]] = {
    # The basic functions
    "_G": ("_G: table", "The table that holds the globals: a global `x` is its field `_G.x`."),
    "_VERSION": ("_VERSION: string", "The language's version, for example `Lua 5.4`."),
    "assert": (
        "assert(v [, message, ...]) -> v, message, ...",
        "Gives all its arguments back if `v` is true; otherwise raises `message`, of any type, as an error.",
    ),
    "collectgarbage": (
        "collectgarbage([option [, arg]]) -> number|boolean|string",
        (
            "`collect` (the default) frees what is unreachable; `count` answers the Lua heap's size in KiB.\n"
            "Options that would stop the collector may be refused by the kernel."
        ),
    ),
    "error": (
        "error(message [, level])",
        (
            "Raises `message`, of any type, as an error. A string gets the position that `level` names:\n"
            "1 (the default) this call, 2 the caller of the function that called `error`, 0 none."
        ),
    ),
    "getmetatable": (
        "getmetatable(object) -> table|nil",
        "The metatable of `object`, or the value of that metatable's `__metatable` field if it has one.",
    ),
    "ipairs": (
        "ipairs(t) -> iterator, t, 0",
        "For a `for` loop over `t[1]`, `t[2]`, … in order, up to the first nil: `for i, v in ipairs(t) do`.",
    ),
    "load": (
        "load(chunk [, chunkname [, mode [, env]]]) -> function | nil, message",
        (
            "Compiles text (a string, or a function that returns pieces) to a function; does not run it.\n"
            "Only source text is accepted, never compiled code. `env` becomes the function's globals."
        ),
    ),
    "next": (
        "next(t [, key]) -> key, value | nil",
        (
            "The entry of `t` after `key`, in no particular order; the first without `key`, nil at the end.\n"
            "`next(t) == nil` asks whether a table is empty."
        ),
    ),
    "pairs": (
        "pairs(t) -> iterator, t, nil",
        (
            "For a `for` loop over every entry of `t`, in no particular order: `for k, v in pairs(t) do`.\n"
            "Entries may be changed or removed during the loop, not added. Honours `__pairs`."
        ),
    ),
    "pcall": (
        "pcall(f, ...) -> true, results... | false, error",
        "Calls `f(...)` and catches its errors. An interrupt cannot be caught.",
    ),
    "print": (
        "print(...)",
        "Writes its arguments as `tostring` shows them, separated by tabs and ended by a newline, to stdout.",
    ),
    "rawequal": ("rawequal(a, b) -> boolean", "Whether `a` and `b` are the same value, `__eq` disregarded."),
    "rawget": ("rawget(t, key) -> value", "Reads `t[key]` without `__index`."),
    "rawlen": ("rawlen(v) -> integer", "The length of a table or string without `__len`."),
    "rawset": ("rawset(t, key, value) -> t", "Writes `t[key] = value` without `__newindex`."),
    "require": (
        "require(name) -> value, where",
        (
            "Loads the Lua module `name` once; answers what it returned, the same value at every call.\n"
            "Modules are looked for in the kernel's allowed directories only."
        ),
    ),
    "select": (
        "select(n, ...) -> ...",
        "The arguments from the `n`-th on, or the last `-n` ones; `select('#', ...)` is their number.",
    ),
    "setmetatable": (
        "setmetatable(t, metatable) -> t",
        (
            "Gives `t` a metatable, or removes it when `metatable` is nil. Refused if the present one has a\n"
            "`__metatable` field, or if the new one has `__gc`."
        ),
    ),
    "tonumber": (
        "tonumber(v [, base]) -> number|nil",
        "Turns a string into a number, or digits of a `base` from 2 to 36 into an integer; else nil.",
    ),
    "tostring": (
        "tostring(v) -> string",
        "A readable form of any value. Honours `__tostring` and `__name`.",
    ),
    "type": (
        "type(v) -> string",
        "The name of a value's type: nil, boolean, number, string, table, function, thread or userdata.",
    ),
    "warn": (
        "warn(message, ...)",
        "Shows its strings, joined, as a warning. `warn('@off')` silences warnings until `warn('@on')`.",
    ),
    "xpcall": (
        "xpcall(f, handler, ...) -> true, results... | false, handled",
        "Like `pcall`, but passes an error through `handler` while the stack is still there to be looked at.",
    ),
    # coroutine
    "coroutine": ("coroutine: table", "Functions that can be suspended and resumed."),
    "coroutine.close": (
        "coroutine.close(co) -> true | false, error",
        "Ends a suspended or finished coroutine and closes its pending to-be-closed variables.",
    ),
    "coroutine.create": (
        "coroutine.create(f) -> thread",
        "A new suspended coroutine whose body is `f`. Start it with `coroutine.resume`.",
    ),
    "coroutine.isyieldable": (
        "coroutine.isyieldable([co]) -> boolean",
        "Whether `co`, by default the running coroutine, could yield now.",
    ),
    "coroutine.resume": (
        "coroutine.resume(co, ...) -> true, values... | false, error",
        (
            "Starts or continues `co`, with `...` as its arguments or as what its `yield` returns.\n"
            "Answers what it yields or returns next; its errors are caught."
        ),
    ),
    "coroutine.running": (
        "coroutine.running() -> thread, boolean",
        "The running coroutine, and true if that is the main one.",
    ),
    "coroutine.status": (
        "coroutine.status(co) -> string",
        "`running`, `suspended`, `normal` (it has resumed another one) or `dead`.",
    ),
    "coroutine.wrap": (
        "coroutine.wrap(f) -> function",
        "Makes a coroutine and answers a function that resumes it: for iterators. Errors pass to the caller.",
    ),
    "coroutine.yield": (
        "coroutine.yield(...) -> ...",
        "Suspends the running coroutine; `...` go to its resumer. Returns what the next `resume` passes.",
    ),
    # io
    "io": ("io: table", "Input and output of the kernel: its three streams, and no files."),
    "io.lines": (
        "io.lines(...) -> iterator",
        "For a `for` loop over lines of input, or over what the formats of `io.read` ask for.",
    ),
    "io.read": (
        "io.read(...) -> values...",
        (
            "Asks the front end for input. Formats: `l` a line (the default), `L` one with its newline,\n"
            "`n` a number, `a` everything, or a count of bytes."
        ),
    ),
    "io.stderr": ("io.stderr: stream", "The stream of error output: `io.stderr:write('…')`."),
    "io.stderr.flush": ("io.stderr:flush()", "Sends what was written so far to the front end."),
    "io.stderr.write": (
        "io.stderr:write(...) -> stream",
        "Writes strings and numbers as they are to stderr.",
    ),
    "io.stdin": ("io.stdin: stream", "The stream of input: asks the front end."),
    "io.stdin.lines": ("io.stdin:lines(...) -> iterator", "Iterates over lines of input, as `io.lines`."),
    "io.stdin.read": ("io.stdin:read(...) -> values...", "Reads input by the formats of `io.read`."),
    "io.stdout": ("io.stdout: stream", "The stream that `print` writes to: `io.stdout:write('…')`."),
    "io.stdout.flush": ("io.stdout:flush()", "Sends what was written so far to the front end."),
    "io.stdout.write": (
        "io.stdout:write(...) -> stream",
        "Writes strings and numbers as they are to stdout.",
    ),
    "io.write": (
        "io.write(...) -> stream",
        "Writes strings and numbers to stdout, with nothing between them and no newline at the end.",
    ),
    # math
    "math": ("math: table", "Mathematical functions and constants."),
    "math.abs": ("math.abs(x) -> number", "The distance of `x` from zero, an integer for an integer."),
    "math.acos": ("math.acos(x) -> number", "The arc cosine of `x`, in radians."),
    "math.asin": ("math.asin(x) -> number", "The arc sine of `x`, in radians."),
    "math.atan": (
        "math.atan(y [, x]) -> number",
        "The angle of the point (`x`, `y`) in radians, in the right quadrant; `x` is 1 unless given.",
    ),
    "math.ceil": ("math.ceil(x) -> integer", "Rounds up: the least integer that is not below `x`."),
    "math.cos": ("math.cos(x) -> number", "The cosine of an angle in radians."),
    "math.deg": ("math.deg(x) -> number", "Radians to degrees."),
    "math.exp": ("math.exp(x) -> number", "e to the power `x`."),
    "math.floor": ("math.floor(x) -> integer", "Rounds down: the greatest integer that is not above `x`."),
    "math.fmod": (
        "math.fmod(x, y) -> number",
        "What is left of `x` after whole steps of `y` towards zero: has the sign of `x`, unlike `x % y`.",
    ),
    "math.huge": ("math.huge: number", "Infinity: greater than every other number."),
    "math.log": ("math.log(x [, base]) -> number", "The logarithm of `x`, natural unless a base is given."),
    "math.max": ("math.max(x, ...) -> number", "The greatest of its arguments."),
    "math.maxinteger": ("math.maxinteger: integer", "The greatest integer, 9223372036854775807."),
    "math.min": ("math.min(x, ...) -> number", "The least of its arguments."),
    "math.mininteger": ("math.mininteger: integer", "The least integer, -9223372036854775808."),
    "math.modf": (
        "math.modf(x) -> number, number",
        "Splits `x` into its whole part (towards zero, a float) and its fraction.",
    ),
    "math.pi": ("math.pi: number", "π, 3.1415926535898."),
    "math.rad": ("math.rad(x) -> number", "Degrees to radians."),
    "math.random": (
        "math.random([m [, n]]) -> number",
        (
            "Without arguments a float in [0, 1), with one an integer from 1 on, with two from `m` to `n`;\n"
            "with 0 an integer of 64 random bits."
        ),
    ),
    "math.randomseed": (
        "math.randomseed([x [, y]])",
        "Restarts the sequence of `math.random`: the same for the same arguments, without any a new one.",
    ),
    "math.sin": ("math.sin(x) -> number", "The sine of an angle in radians."),
    "math.sqrt": ("math.sqrt(x) -> number", "The square root of `x`."),
    "math.tan": ("math.tan(x) -> number", "The tangent of an angle in radians."),
    "math.tointeger": (
        "math.tointeger(x) -> integer|nil",
        "`x` as an integer if that is exact, nil if not.",
    ),
    "math.type": ("math.type(x) -> string|nil", "`integer`, `float`, or nil for what is no number."),
    "math.ult": ("math.ult(m, n) -> boolean", "Whether `m < n` when both are read as unsigned integers."),
    # os
    "os": ("os: table", "Time and date."),
    "os.clock": ("os.clock() -> number", "Processor time used so far, in seconds: for measuring."),
    "os.date": (
        "os.date([format [, time]]) -> string|table",
        (
            "A date as text by strftime's codes, in UTC if `!` comes first; `*t` and `!*t` give a table of\n"
            "year, month, day, hour, min, sec, wday, yday, isdst."
        ),
    ),
    "os.difftime": ("os.difftime(t2, t1) -> number", "The seconds from `t1` to `t2`."),
    "os.time": (
        "os.time([t]) -> integer",
        "Now, or the local time in `t` (year, month, day, hour, min, sec, isdst), in seconds since 1970.",
    ),
    # string
    "string": ("string: table", "Functions on strings, also methods: `s:upper()` is `string.upper(s)`."),
    "string.byte": (
        "string.byte(s [, i [, j]]) -> integers...",
        "The codes of the bytes `s[i]` to `s[j]`: by default the first one only.",
    ),
    "string.char": ("string.char(...) -> string", "The string of the bytes with these codes."),
    "string.find": (
        "string.find(s, pattern [, init [, plain]]) -> start, end, captures... | nil",
        (
            "Looks for `pattern` from `init` on; answers where it starts and ends, then its captures.\n"
            "With `plain` true the pattern is ordinary text."
        ),
    ),
    "string.format": (
        "string.format(format, ...) -> string",
        (
            "Fills in codes: `%d` integer, `%g %f %e` float, `%x` hexadecimal, `%s` any value as text,\n"
            "`%q` a literal that Lua can read back, `%c` a byte, `%%` a percent sign."
        ),
    ),
    "string.gmatch": (
        "string.gmatch(s, pattern [, init]) -> iterator",
        "For a `for` loop over all matches: each step gives the captures, or else the whole match.",
    ),
    "string.gsub": (
        "string.gsub(s, pattern, repl [, n]) -> string, integer",
        (
            "Replaces all matches, or the first `n`, and counts them. `repl`: text (`%1` capture, `%0` the\n"
            "match), a table that is looked up, or a function that is called; false or nil keep the match."
        ),
    ),
    "string.len": ("string.len(s) -> integer", "The length of `s` in bytes, as `#s`."),
    "string.lower": ("string.lower(s) -> string", "`s` with its ASCII letters in lower case."),
    "string.match": (
        "string.match(s, pattern [, init]) -> captures... | nil",
        "The captures of the first match from `init` on, or the whole match if the pattern has none.",
    ),
    "string.pack": (
        "string.pack(format, ...) -> string",
        "Values as bytes: `<` `>` byte order, `i4` `I2` integers, `d` `f` floats, `z` `s4` strings.",
    ),
    "string.packsize": (
        "string.packsize(format) -> integer",
        "The number of bytes that `string.pack` makes with a format of fixed size.",
    ),
    "string.rep": (
        "string.rep(s, n [, sep]) -> string",
        "`n` copies of `s` in a row, with `sep` between them.",
    ),
    "string.reverse": ("string.reverse(s) -> string", "The bytes of `s` from last to first."),
    "string.sub": (
        "string.sub(s, i [, j]) -> string",
        "The bytes from `i` to `j`, both included; negative positions count from the end.",
    ),
    "string.unpack": (
        "string.unpack(format, s [, pos]) -> values..., next",
        "Reads back what `string.pack` wrote, from `pos` on; the last result is the position after it.",
    ),
    "string.upper": ("string.upper(s) -> string", "`s` with its ASCII letters in upper case."),
    # table
    "table": ("table: table", "Functions on tables that are used as lists."),
    "table.concat": (
        "table.concat(list [, sep [, i [, j]]]) -> string",
        "Joins the strings and numbers `list[i]` to `list[j]` with `sep` between them.",
    ),
    "table.insert": (
        "table.insert(list, [pos,] value)",
        "Puts `value` at the end, or at `pos` and moves the rest up.",
    ),
    "table.move": (
        "table.move(from, first, last, pos [, to]) -> to",
        "Copies `from[first]` to `from[last]` to position `pos` of `to`, by default the same table.",
    ),
    "table.pack": (
        "table.pack(...) -> table",
        "A list of its arguments, whose field `n` is their number (nils count).",
    ),
    "table.remove": (
        "table.remove(list [, pos]) -> value",
        "Takes out and returns the last element, or that at `pos` and moves the rest down.",
    ),
    "table.sort": (
        "table.sort(list [, less])",
        (
            "Sorts in place with `<`, or by `less(a, b)`, which says whether `a` must come before `b`.\n"
            "Equal elements may change their order."
        ),
    ),
    "table.unpack": (
        "table.unpack(list [, i [, j]]) -> ...",
        "`list[i]` to `list[j]` as separate values, by default the whole list.",
    ),
    # utf8
    "utf8": ("utf8: table", "Functions on strings that hold UTF-8 text."),
    "utf8.char": ("utf8.char(...) -> string", "The UTF-8 text of these code points."),
    "utf8.charpattern": (
        "utf8.charpattern: string",
        "A pattern that matches one character of valid UTF-8 text.",
    ),
    "utf8.codepoint": (
        "utf8.codepoint(s [, i [, j [, lax]]]) -> integers...",
        "The code points of the characters that start between the bytes `i` and `j`.",
    ),
    "utf8.codes": (
        "utf8.codes(s [, lax]) -> iterator",
        "For a `for` loop over characters: `for pos, code in utf8.codes(s) do`. Invalid text is an error.",
    ),
    "utf8.len": (
        "utf8.len(s [, i [, j [, lax]]]) -> integer | nil, position",
        "The number of characters, or nil and where the first invalid byte is.",
    ),
    "utf8.offset": (
        "utf8.offset(s, n [, i]) -> integer|nil",
        "The byte position at which the `n`-th character, counted from byte `i`, starts.",
    ),
    # The kernel's own
    "clear_output": (
        "clear_output([wait])",
        "Empties the cell's output; with `wait` true only when the next output arrives.",
    ),
    "display": (
        "display(value [, {id=name}])\ndisplay{html=…|json=…|markdown=…|png=…|svg=…|text=… [, id=name]}",
        (
            "Shows a value, or content of one or several of these kinds, in the cell's output.\n"
            "What was shown with an `id` can be replaced by `update_display`."
        ),
    ),
    "update_display": (
        "update_display(id, value)\nupdate_display(id, {html=…|json=…|markdown=…|png=…|svg=…|text=…})",
        "Replaces what `display` showed under this `id`, wherever it is shown.",
    ),
}
"""Name to (signature, description): everything that a fresh kernel's scripts can reach."""
