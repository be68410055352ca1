"""Every test in this folder drives JupyterLab in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from support.browser import chromium, jupyterlab
from support.jupyter_spec import own_jupyter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Jupyter's directories, and the notebooks."""
    folder = tmp_path_factory.mktemp("jupyter")
    with own_jupyter(folder):
        yield folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(browser: Browser, folder: Path) -> Iterator[str]:
    with jupyterlab(folder) as address:
        yield address
