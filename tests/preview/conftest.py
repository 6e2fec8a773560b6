"""A browser for the preview's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import NAMES, Browser, chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium, or a skip."""
    program = chromium()
    if program is None:
        pytest.skip(f"needs one of {', '.join(NAMES)}; none is installed")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()
