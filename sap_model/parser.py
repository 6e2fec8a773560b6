"""The parser of the model's commands, until they are made from dataclasses like the pipeline's."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from pipeline.errors import UserError


def run_command(options: argparse.Namespace) -> NoReturn:
    """Call `options.command` and exit: 0 is done, 2 a line for the user, 130 Ctrl-C."""
    try:
        options.command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, for example `head`, is gone
        sys.stderr.close()
        sys.exit(1)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if "." in name or name in ("", "pipeline") or name in sys.stdlib_module_names:
            raise  # a fault of ours
        print(f"error: package {name} is missing; run: make clean setup", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, in the words of make: SCENES for --scenes."""

    def error(self, message: str) -> NoReturn:
        option = re.match(r"argument --([\w-]+): ", message)
        if option:
            message = f"{option[1].upper().replace('-', '_')} {message[option.end() :]}"
        self.exit(2, f"error: {message}\n")


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}") from None


def flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text}")
    return text == "1"
