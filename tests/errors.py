"""Expect an error for the user by its kind and by the values that its message names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.errors import UserError


@contextmanager
def raises_user_error(*values: object) -> Iterator[None]:
    """Expect a `UserError` of one line that names each of `values`."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert not [value for value in values if str(value) not in message], message
