"""A browser for the preview's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import Browser, open_browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium, or a skip."""
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
