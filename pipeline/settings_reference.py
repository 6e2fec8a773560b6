"""The settings of all commands as Markdown: docs/settings.md is what this prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.cli import COMMANDS, CONFIG, CONFIG_HELP, PROGRAM, Command, summary
from pipeline.setting import Option, options_of

HEADER = f"""# Settings

Every setting of every command. This page is made by `{PROGRAM} settings-reference`; do not edit it.

A setting is written `NAME=value` or `--name value`: `make render MIN_AREA=400`,
`{PROGRAM} render MIN_AREA=400` and `{PROGRAM} render --min-area 400` are the same. Settings that
take several values take them between commas, as a JSON list, or one by one in several options:
`DATA=a,b`, `DATA='["a, with a comma", "b"]'`, `--data a --data b` (each of these is
one value, commas included). A switch is 0 or 1.

Every command also takes `{CONFIG}=FILE`: a {CONFIG_HELP}.
"""


def show(_: Any) -> None:
    """Print the page."""
    print(reference(), end="")


def reference(commands: Mapping[str, Command] = COMMANDS) -> str:
    """The page."""
    return HEADER + "".join(_section(name, each.load_settings()) for name, each in commands.items())


def _section(command: str, settings: type) -> str:
    lines = ["", f"## {command}", "", summary(settings)]
    options = options_of(settings).values()
    if options:
        lines += ["", "| setting | default | values | meaning |", "|---|---|---|---|"]
        lines += [_row(option) for option in options]
    return "\n".join(lines) + "\n"


def _row(option: Option) -> str:
    default = option.shown_default
    if not default:
        default = "required" if option.declared.required else "none"
    cells = (f"`{option.name}`", default, option.shown_values, option.declared.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
