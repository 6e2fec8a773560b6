"""The licence of a dataset: one out of dataset_card/licenses/, or a text of the user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

CARD_FOLDER = Path(__file__).resolve().parents[2] / "dataset_card"
"""Template and licence texts: what is read by people more than by programs."""

NAMES = {
    "cc-by-4.0": "Creative Commons Attribution 4.0 International (CC BY 4.0)",
    "cc-by-nc-4.0": "Creative Commons Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)",
    "cc-by-nc-sa-4.0": "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International "
    "(CC BY-NC-SA 4.0)",
    "cc-by-sa-4.0": "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)",
    "cc0-1.0": "Creative Commons CC0 1.0 Universal (CC0 1.0)",
    "odbl": "Open Data Commons Open Database License 1.0 (ODbL)",
    "odc-by": "Open Data Commons Attribution License 1.0 (ODC-By)",
}
"""The Hub's identifiers of the licences that can be chosen, and their names."""

URLS = {
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "odbl": "https://opendatacommons.org/licenses/odbl/1.0/",
    "odc-by": "https://opendatacommons.org/licenses/by/1.0/",
}
"""Where their texts stand on the web, as the SPDX licence list says."""


@dataclass(frozen=True)
class Licence:
    """A licence as a dataset card needs it.

    Attributes:
        identifier: The Hub's; `other` for a text of the user's own.
        name: For people; of an own text, its file's name without ending, in the Hub's letters.
        text: The whole licence.
    """

    identifier: str
    name: str
    text: str

    @property
    def url(self) -> str:
        """Where the text is found; that of an own one only beside the dataset."""
        return URLS.get(self.identifier, "LICENSE")

    @property
    def metadata(self) -> dict[str, str]:
        """The entries of the card's YAML."""
        if self.identifier != "other":
            return {"license": self.identifier}
        return {"license": "other", "license_name": self.name, "license_link": "LICENSE"}


def read_licence(choice: str) -> Licence:
    """The licence that the user chose.

    Args:
        choice: An identifier out of `NAMES`, or the path of a text file.

    Raises:
        UserError: It is neither, or the file holds no text.
    """
    if choice in NAMES:
        text = (CARD_FOLDER / "licenses" / f"{choice}.txt").read_text("utf-8")
        return Licence(choice, NAMES[choice], text)
    path = Path(choice)
    if not choice or not path.is_file():
        known = ", ".join(NAMES)
        raise UserError(
            f"{choice!r} is no licence: choose {known}, or give the path of a text file"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        text = ""
    if not text.strip():
        raise UserError(f"{path} holds no licence: it must be a text file in UTF-8")
    name = re.sub(r"[^a-z0-9.]+", "-", path.stem.lower()).strip("-.")
    return Licence("other", name or "custom", text)
