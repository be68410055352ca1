"""What holds for all tests, and who runs which when several workers do."""

import contextlib
from collections.abc import Iterator

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# How long an example takes is the machine's matter: a loaded one must not fail a property.
settings.register_profile("llmspell", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("llmspell")

_LONGEST_FIRST = ("slow", "browser", "jupyter", "integration")


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Coverage leaves this test and its processes alone: it carries a load along lines that other tests walk too."""
    with _unmeasured():
        yield


@pytest.fixture(scope="module")
def unmeasured_module() -> Iterator[None]:
    """The same of all tests of a module."""
    with _unmeasured():
        yield


@contextlib.contextmanager
def _unmeasured() -> Iterator[None]:
    here = Coverage.current()
    with pytest.MonkeyPatch.context() as environ:
        environ.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        if here is not None:
            here.stop()
        yield
        if here is not None:
            here.start()


class _ByFile(LoadFileScheduling):
    """A file is one worker's, which makes its fixtures once; so is the folder whose users are the same ones."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/hostile" if file.startswith("tests/hostile/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByFile | None:
    """With `--dist loadfile`, ours, which hands out files in the order that they are collected in."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For workers, long files first: who is done early is given short ones."""

    def place(item: pytest.Item) -> int:
        file = item.getparent(pytest.Module)
        assert file is not None
        marks = [file.get_closest_marker(name) for name in _LONGEST_FIRST]
        return next((number for number, mark in enumerate(marks) if mark), len(_LONGEST_FIRST))

    if hasattr(config, "workerinput"):
        items.sort(key=place)
