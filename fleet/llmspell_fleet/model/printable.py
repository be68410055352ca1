"""Text that others wrote, for people's terminals and logs."""


def printable(text: str, *, longest: int | None = None) -> str:
    """The same without what would drive a terminal, cut after `longest` characters."""
    if longest is not None and len(text) > longest:
        text = text[:longest] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)
