"""Labels: what may be one, how they change, and what is selected by them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.labels import MOST_LABELS, Labels, LabelsChange, changed, selector, selects

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", fullmatch=True)
values = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters=","), min_size=1, max_size=20
)
some = st.dictionaries(names, values, max_size=5)


@pytest.mark.parametrize(
    ("case", "labels", "is_one"),
    [
        ("plain", {"env": "prod"}, True),
        ("with a prefix", {"example.com/team-x": "a b = c"}, True),
        ("a name with a space", {"a b": "x"}, False),
        ("no name", {"": "x"}, False),
        ("a name that begins with a dash", {"-a": "x"}, False),
        ("a line break after the name", {"a\n": "x"}, False),
        ("no value", {"a": ""}, False),
        ("a comma in the value", {"a": "x,y"}, False),
        ("a line break in the value", {"a": "x\n"}, False),
        ("a value that is long", {"a": "x" * 201}, False),
        ("a number", {"a": 1}, False),
        ("too many", {f"n{n}": "x" for n in range(MOST_LABELS + 1)}, False),
    ],
)
def test_what_may_be_labels(case: str, labels: dict[str, object], is_one: bool) -> None:
    try:
        msgspec.convert(labels, Labels)
    except msgspec.ValidationError:
        assert not is_one, case
    else:
        assert is_one, case


def test_a_change_may_take_a_label_away() -> None:
    assert msgspec.convert({"a": ""}, LabelsChange) == {"a": ""}
    assert changed({"a": "1", "b": "2"}, {"a": "", "c": "3", "d": ""}) == {"b": "2", "c": "3"}
    assert changed({"a": "1"}, None) == {"a": "1"}


def test_there_are_never_too_many() -> None:
    full = {f"n{n}": "x" for n in range(MOST_LABELS)}

    assert changed(full, {"n0": "", "one-more": "x"})["one-more"] == "x"
    with pytest.raises(ValueError, match=f"at most {MOST_LABELS}"):
        changed(full, {"one-more": "x"})


@pytest.mark.parametrize("text", ["=x", "a=", "a b", "a,,b", ",", "a=1,", "é=1", "a\n=1"])
def test_a_selector_that_cannot_be_meant_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected labels as name=value"):
        selector(text)


@pytest.mark.parametrize(
    ("text", "is_selected"),
    [("env=prod", True), ("env", True), ("env=prod,team", True), ("env=test", False), ("env=prod,zone", False)],
)
def test_who_is_selected(text: str, is_selected: bool) -> None:
    assert selects(selector(text), {"env": "prod", "team": "a=b"}) is is_selected


@given(some, some)
def test_who_has_the_labels_of_a_selector_is_selected_by_it(labels: dict[str, str], others: dict[str, str]) -> None:
    text = ",".join(f"{name}={value}" for name, value in labels.items())
    wanted = selector(text) if text else {}

    assert selects(wanted, {**others, **labels})
    assert selects(wanted, others) == (labels.items() <= others.items())
