"""`llmspell fleet upgrade`."""

import pytest

from support.commands import Commands

pytestmark = pytest.mark.integration


def test_it_says_what_became_what_and_how_many_kernels_ran_on(llmspell: Commands) -> None:
    done = llmspell("fleet", "upgrade")

    assert done.code == 0
    assert done.out == "fleet is upgraded from 1 to 2, process 5; 3 kernels adopted\n"
    assert llmspell("fleet", "upgrade", "--output", "json").json["adopted"] == 3


def test_a_refusal_is_told_with_its_reason(llmspell: Commands) -> None:
    done = llmspell("fleet", "upgrade", "--wait", "0")

    assert (done.code, done.out) == (4, "")
    assert "1 requests still run" in done.err
    assert llmspell("fleet", "upgrade", "--wait", "0", "--force").code == 0
