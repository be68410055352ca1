"""Names and ids: what is one, from its first character to its last."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.ids import NAME, is_kernel_id, is_name
from llmspell_fleet.model.requests import KernelRequest, TenantRequest
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_kernel.connection import new_kernel_id

NAMES = ["a", "0", "acme", "a-b_c", "9lives", "a" * 63, "a-", "a__"]
NO_NAMES = [
    *("", " ", "A", "Acme", "_a", "-a", "a" * 64, "a b", "a.b", "a/b", "..", "a\0", "a\n", "\na", "a\r", "ä"),
    *("аcme", "ａ", "a\u0661", "a\u200b", "ﬁ", "K"),  # noqa: RUF001 - look-alikes
]
_texts = st.one_of(st.text(max_size=5), st.from_regex(NAME), st.text("abz09-_A\n", max_size=70))


@pytest.mark.parametrize("text", NAMES)
def test_names(text: str) -> None:
    assert is_name(text)
    assert TenantRequest(id=text).id == text
    assert msgspec.convert({"id": text}, TenantRequest).id == text


@pytest.mark.parametrize("text", NO_NAMES)
def test_no_names_in_any_record(text: str) -> None:
    assert not is_name(text)
    for record, members in (
        (TenantRequest, {"id": text}),
        (TenantSpec, {"id": text}),
        (KernelRequest, {"tenant": text}),
        (KernelRequest, {"tenant": "t", "name": text}),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(members, record)


@given(_texts)
def test_the_pattern_that_clients_are_shown_says_the_same(text: str) -> None:
    assert is_name(text) == (re.search(NAME, text) is not None)


def test_a_kernel_s_id_is_what_we_make() -> None:
    assert all(is_kernel_id(new_kernel_id()) for _ in range(100))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00000000-0000-0000-0000-00000000000G",
        "00000000-0000-0000-0000-00000000000A",
        "00000000000000000000000000000000",
        "{00000000-0000-0000-0000-000000000000}",
        "00000000-0000-0000-0000-000000000000\n",
        " 00000000-0000-0000-0000-000000000000",
        "00000000-0000-0000-0000-0000000000000",
        "00000000-0000-0000-0000-00000000000\u0661",
        "../../../../etc/passwd",
    ],
)
def test_nothing_else_is(text: str) -> None:
    assert not is_kernel_id(text)
