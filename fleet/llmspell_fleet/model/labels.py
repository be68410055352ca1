"""Labels: what people call tenants and kernels by, besides their names. Pure."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

MOST_LABELS: Final = 64

LabelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$(?!\n)")]
LabelValue = Annotated[str, msgspec.Meta(pattern=r"^[^,\x00-\x1f\x7f]{1,200}$(?!\n)")]
NewLabelValue = Annotated[str, msgspec.Meta(pattern=r"^[^,\x00-\x1f\x7f]{0,200}$(?!\n)")]

Labels = Annotated[dict[LabelName, LabelValue], msgspec.Meta(max_length=MOST_LABELS)]
"""Values hold no comma: it stands between the terms of a selector."""

LabelsChange = Annotated[dict[LabelName, NewLabelValue], msgspec.Meta(max_length=2 * MOST_LABELS)]
"""Some labels; those that are not named stay, and one that is "" goes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)


def changed(labels: Mapping[str, str], change: Mapping[str, str] | None) -> dict[str, str]:
    """`labels` after a `LabelsChange`. ValueError: they would be too many."""
    after = {name: value for name, value in {**labels, **(change or {})}.items() if value}
    if len(after) > MOST_LABELS:
        raise ValueError(f"expected at most {MOST_LABELS} labels, found {len(after)}")
    return after


def selector(text: str) -> dict[str, str | None]:
    """What ``env=prod,team`` asks for: `env` is `prod`, and there is a label `team`. ValueError says what is wrong."""
    wanted: dict[str, str | None] = {}
    for term in text.split(","):
        name, equals, value = term.partition("=")
        if not _NAME.fullmatch(name) or (equals and not value):
            raise ValueError(f"expected labels as name=value or name, with commas between them, found {term[:80]!r}")
        wanted[name] = value if equals else None
    return wanted


def selects(wanted: Mapping[str, str | None], labels: Mapping[str, str]) -> bool:
    """Whether `labels` are as a `selector` asks."""
    return all(name in labels and value in (None, labels[name]) for name, value in wanted.items())
