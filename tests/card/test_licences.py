"""The licence is the user's choice, and its text is whole."""

import pytest

from pipeline.card.licences import CARD_FOLDER, NAMES, URLS, read_licence
from pipeline.errors import UserError
from tests.hub.card import check_card


def test_every_text_has_a_name_that_the_hub_knows():
    files = {path.stem for path in (CARD_FOLDER / "licenses").iterdir()}
    assert files == set(NAMES) == set(URLS)
    for identifier in NAMES:
        assert check_card(f"---\nlicense: {identifier}\n---\n") == ([], [])


@pytest.mark.parametrize("identifier", NAMES)
def test_texts_are_whole(identifier):
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


def test_a_text_of_ones_own_is_taken_as_it_is(tmp_path):
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
def test_anything_else_is_refused_in_one_line_with_the_choices(choice):
    with pytest.raises(UserError) as error:
        read_licence(choice)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00"])
def test_a_file_without_text_is_refused(content, tmp_path):
    path = tmp_path / "licence.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="holds no licence"):
        read_licence(str(path))
