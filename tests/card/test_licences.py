"""The licence is the user's choice, and its text is complete."""

import pytest

from pipeline.card.licences import CARD_FOLDER, LICENCES, read_licence
from tests.errors import raises_user_error
from tests.hub.card import card_errors


def test_the_hub_knows_every_licence():
    files = {path.stem for path in (CARD_FOLDER / "licenses").iterdir()}
    assert files == set(LICENCES)
    for identifier in LICENCES:
        assert card_errors(f"---\nlicense: {identifier}\n---\n") == []


@pytest.mark.parametrize("identifier", LICENCES)
def test_texts_are_complete(identifier):
    licence = read_licence(identifier)
    assert licence.metadata == {"license": identifier}
    if identifier == "cc0-1.0":
        parts = ["Statement of Purpose", "1. Copyright and Related Rights", "4. Limitations and"]
    elif identifier.startswith("cc-"):
        parts = [f"Section {number} – " for number in range(1, 9)]
    else:
        parts = ["1.0 Definitions of Capitalised Words", "4.0 Conditions of Use", "10.0 General"]
    for part in parts:
        assert part in licence.text
    for word, letters in {"NonCommercial": "-nc", "ShareAlike": "-sa"}.items():
        if identifier.startswith("cc-"):
            assert (word in licence.text.splitlines()[0]) == (letters in identifier)


def test_text_of_the_user_is_used_verbatim(tmp_path):
    path = tmp_path / "Our Terms (v2).txt"
    path.write_text("Do what you like.\n")
    licence = read_licence(str(path))
    assert licence.text == "Do what you like.\n"
    assert licence.url == "LICENSE"
    assert licence.metadata == {
        "license": "other",
        "license_name": "our-terms-v2",
        "license_link": "LICENSE",
    }


@pytest.mark.parametrize("choice", ["", "apache", "CC-BY-4.0", "."])
def test_unknown_licence_is_refused_with_the_choices(choice):
    with raises_user_error(f"LICENSE={choice}", *LICENCES):
        read_licence(choice)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00"])
def test_file_without_text_is_refused(content, tmp_path):
    path = tmp_path / "licence.txt"
    path.write_bytes(content)
    with raises_user_error(path):
        read_licence(str(path))
