"""`llmspell fleet signal` and `drain`: a kernel's, a tenant's, all."""

import pytest

from support.commands import Commands

pytestmark = pytest.mark.integration


def kernels(llmspell: Commands, tenant: str) -> list[str]:
    """The ids of a tenant's kernels."""
    return [kernel["id"] for kernel in llmspell("tenant", "show", tenant, "--output", "json").json["kernels"]]


@pytest.mark.parametrize(
    ("name", "target", "meant"),
    [("USR1", "acme", ["acme"]), ("sigint", "acme", ["acme"]), ("hup", "--all", ["acme", "globex"])],
)
def test_a_signal_goes_to_all_that_are_meant(name: str, target: str, meant: list[str], llmspell: Commands) -> None:
    done = llmspell("fleet", "signal", name, target)

    assert (done.code, done.out, done.err) == (0, "", "")
    number = name.upper().removeprefix("SIG")
    assert llmspell.served.fleet.signalled == [(kernel, number) for one in meant for kernel in kernels(llmspell, one)]


def test_a_signal_goes_to_one_kernel_by_the_beginning_of_its_id(llmspell: Commands) -> None:
    (kernel,) = kernels(llmspell, "globex")

    assert llmspell("fleet", "signal", "TERM", kernel[:8]).code == 0
    assert llmspell.served.fleet.signalled == [(kernel, "TERM")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("signal", "KILL", "acme"), 2, "expected one of INT, TERM, HUP, USR1, USR2, found 'KILL'"),
        (("signal", "INT"), 2, "expected either a kernel or a tenant, or --all"),
        (("signal", "INT", "acme", "--all"), 2, "expected either a kernel or a tenant, or --all"),
        (("signal", "INT", "initech"), 1, "the fleet has no kernel 'initech'"),
        (("drain",), 2, "expected either a kernel or a tenant, or --all"),
        (("drain", "acme", "--wait", "11m"), 2, "--wait: expected at most 10m"),
        (("drain", "initech"), 1, "the fleet has no kernel 'initech'"),
    ],
)
def test_what_cannot_be_meant_does_nothing(
    arguments: tuple[str, ...], code: int, said: str, llmspell: Commands
) -> None:
    done = llmspell("fleet", *arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert llmspell.served.fleet.signalled == []


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        (("acme",), 0, "1 of 1 kernel drained\n"),
        (("--all",), 0, "2 of 2 kernels drained\n"),
        (("acme", "--restart"), 0, "1 of 1 kernel restarted\n"),
        (("acme", "--wait", "0"), 0, "0 of 1 kernel drained\n"),
    ],
)
def test_draining_says_how_many_are_down(arguments: tuple[str, ...], code: int, out: str, llmspell: Commands) -> None:
    done = llmspell("fleet", "drain", *arguments)

    assert (done.code, done.out) == (code, out)
