"""The licence of a dataset: one of dataset_card/licenses/, or a text file of the user."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pipeline.errors import UserError

CARD_FOLDER = Path(str(files("dataset_card")))
"""The folder of the card's template and of the licence texts."""

LICENCES = {
    "cc-by-4.0": (
        "Creative Commons Attribution 4.0 International (CC BY 4.0)",
        "https://creativecommons.org/licenses/by/4.0/legalcode",
    ),
    "cc-by-nc-4.0": (
        "Creative Commons Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)",
        "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    ),
    "cc-by-nc-sa-4.0": (
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0)",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
    ),
    "cc-by-sa-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    ),
    "cc0-1.0": (
        "Creative Commons CC0 1.0 Universal (CC0 1.0)",
        "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    ),
    "odbl": (
        "Open Data Commons Open Database License 1.0 (ODbL)",
        "https://opendatacommons.org/licenses/odbl/1.0/",
    ),
    "odc-by": (
        "Open Data Commons Attribution License 1.0 (ODC-By)",
        "https://opendatacommons.org/licenses/by/1.0/",
    ),
}
"""Licences by the Hub's identifier: name, and address of the text (source: SPDX licence list)."""


@dataclass(frozen=True)
class Licence:
    """A dataset's licence.

    Attributes:
        identifier: The Hub's identifier; `other` for a text of the user.
        name: The full name; for a text of the user, its file name in the Hub's letters.
        url: Address of the text; `LICENSE`, the file beside the data, for a text of the user.
        text: The complete licence.
    """

    identifier: str
    name: str
    url: str
    text: str

    @property
    def metadata(self) -> dict[str, str]:
        """The licence's entries in the card's YAML."""
        if self.identifier != "other":
            return {"license": self.identifier}
        return {"license": "other", "license_name": self.name, "license_link": self.url}


def read_licence(choice: str) -> Licence:
    """Read the licence that the user chose.

    Args:
        choice: A key of `LICENCES`, or the path of a text file.

    Raises:
        UserError: `choice` is neither, or the file is not text in UTF-8.
    """
    if choice in LICENCES:
        name, url = LICENCES[choice]
        text = (CARD_FOLDER / "licenses" / f"{choice}.txt").read_text("utf-8")
        return Licence(choice, name, url, text)
    path = Path(choice)
    if not choice or not path.is_file():
        raise UserError(
            f"LICENSE={choice} is neither a known licence nor a file; choose one of "
            f"{', '.join(LICENCES)}, or give the path of a text file"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        text = ""
    if not text.strip():
        raise UserError(f"LICENSE={path} holds no text in UTF-8; give a text file")
    name = re.sub(r"[^a-z0-9.]+", "-", path.stem.lower()).strip("-.")
    return Licence("other", name or "custom", "LICENSE", text)
