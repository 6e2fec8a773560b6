"""Names that settings list are those that their modules know."""

from __future__ import annotations

from typing import get_args

from sap_model.model.build import SIZES
from sap_model.names import SIZE_HELP, Method, TrainedMethod
from sap_model.predict.methods import METHODS


def test_methods_are_those_of_the_table():
    assert set(get_args(Method)) == set(METHODS)
    trained = {name for name, about in METHODS.items() if about.weights == "fine-tuned"}
    assert set(get_args(TrainedMethod)) == trained


def test_help_names_every_size():
    assert all(f" {size}," in SIZE_HELP for size in SIZES)
