"""Files of OUT: damaged ones are named with what to do."""

import pytest

from pipeline.errors import UserError
from pipeline.layout import read_json, write_json

DAMAGES = [b"", b'{"a": 1', b"\x00\x00", b"\xff\xfe", b"[1]", b"3", b"null"]


@pytest.mark.parametrize("data", DAMAGES)
def test_a_damaged_file_is_one_line_for_the_user(tmp_path, data):
    path = tmp_path / "some.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"some\.json is damaged .*, or delete ") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)  # for callers who can do without the file
    with pytest.raises(UserError, match="; pack again"):
        read_json(path, remedy="pack again")


def test_what_is_written_comes_back_and_a_missing_file_is_missing(tmp_path):
    write_json(tmp_path / "some.json", {"ü": [1, 2.5, None]})
    assert read_json(tmp_path / "some.json") == {"ü": [1, 2.5, None]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "other.json")
