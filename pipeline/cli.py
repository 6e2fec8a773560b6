"""The program `sap-panorama`: commands, their settings, exit statuses, one line for the user.

    sap-panorama render --scenes 3 --config run.toml
    sap-panorama render SCENES=3                # what make hands on

Each command is a dataclass of settings and a function that takes it. `tyro` makes the command line
of the dataclass: its help, its completion, its values. Exit statuses: 0 done, 1 the data are not
right (`verify`), 2 a line for the user, 130 Ctrl-C.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import io
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, Union

from pipeline.errors import UserError
from pipeline.setting import Option, build, json_list, options_of

PROGRAM = "sap-panorama"


class Command(NamedTuple):
    """A command, as `module:name` of its settings and its function, imported when they are used."""

    settings: str
    function: str
    extra: str = "render"
    """The extra of pyproject.toml that brings the packages it needs."""
    resumes: bool = False
    """Whether the same command continues where a stopped one was."""

    def load_settings(self) -> type:
        return _load(self.settings)


COMMANDS = {
    "render": Command("pipeline.config:Render", "pipeline.commands.run:render", resumes=True),
    "status": Command("pipeline.config:Status", "pipeline.commands.run:status"),
    "failures": Command("pipeline.config:Failures", "pipeline.commands.run:failures"),
    "plan": Command("pipeline.config:Plan", "pipeline.commands.plan:plan"),
    "shards": Command("pipeline.config:Shards", "pipeline.commands.run:shards", resumes=True),
    "preview": Command("pipeline.config:Preview", "pipeline.commands.run:preview"),
    "verify": Command("pipeline.config:Verify", "pipeline.commands.dataset:verify", resumes=True),
    "stats": Command("pipeline.config:Stats", "pipeline.commands.dataset:stats"),
    "coco": Command("pipeline.config:Coco", "pipeline.commands.dataset:coco", resumes=True),
    "export": Command("pipeline.config:Export", "pipeline.commands.dataset:export"),
    "card": Command("pipeline.config:Card", "pipeline.commands.dataset:card"),
    "publish": Command(
        "pipeline.config:Publish", "pipeline.commands.dataset:publish", resumes=True
    ),
    "eval": Command("sap_model.config:Evaluate", "sap_model.commands:evaluate", "train", True),
    "train": Command("sap_model.config:Train", "sap_model.commands:train", "train", True),
    "nano": Command("sap_model.config:Nano", "sap_model.commands:nano", "train", True),
    "ablations": Command(
        "sap_model.config:Ablations", "sap_model.commands:ablations", "train", True
    ),
    "model-card": Command("sap_model.config:ModelCard", "sap_model.commands:model_card", "train"),
    "predict": Command("sap_model.config:Predict", "sap_model.commands:predict", "predict"),
    "check-gpu": Command("sap_model.config:CheckGpu", "sap_model.commands:check_gpu", "train"),
    "segment": Command("sap_model.config:SegmentFolder", "sap_model.commands:segment", "predict"),
    "score-everything": Command(
        "sap_model.config:ScoreEverything", "sap_model.commands:score_everything", "train"
    ),
    "demo": Command("sap_model.config:Demo", "sap_model.commands:demo", "demo"),
    "import-coco": Command("sap_model.config:ImportCoco", "sap_model.commands:import_coco"),
    "import-pavs": Command("sap_model.config:ImportPavs", "sap_model.commands:import_pavs"),
    "import-hunyuan": Command(
        "sap_model.config:ImportHunyuan", "sap_model.commands:import_hunyuan"
    ),
    "settings-reference": Command(
        "pipeline.config:SettingsReference", "pipeline.settings_reference:show"
    ),
    "completion": Command("pipeline.config:Completion", "pipeline.cli:completion"),
}

CONFIG = "CONFIG"
"""The setting that every command has: a file with others."""

GRACE_SECONDS = 5.0
"""How long the other processes leave the first one to report an error: torchrun ends all processes
when one ends."""

MACHINE_ERRORS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ENOSPC", "EDQUOT", "EIO", "ELOOP")
    if hasattr(errno, name)
}
"""Errors of a path or disk, which no part of the program can prevent."""

CONFIG_HELP = "TOML or YAML file of settings; those given beside it win"

NAMED = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)", re.DOTALL)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the words ask for, and exit."""
    words = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        if is_follower():
            time.sleep(GRACE_SECONDS)
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        resumes = COMMANDS[words[0]].resumes
        print("stopped" + "; the same command continues from here" * resumes, file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, for example `head`, is gone
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise  # our own bug
        place = error.filename or "the output"
        print(
            f"error: cannot use {place}: {error.strerror}; check the path, its permissions and "
            "the free space",
            file=sys.stderr,
        )
        sys.exit(2)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if "." in name or name in ("", "pipeline", "sap_model") or name in sys.stdlib_module_names:
            raise  # our own bug
        extra = COMMANDS[words[0]].extra
        print(
            f"error: package {name} is missing; run: make setup EXTRAS={extra} "
            f'(in a checkout), or: pip install "{PROGRAM}[{extra}]"',
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(0)


def is_follower() -> bool:
    """Whether torchrun started this process beside a first one, which speaks for all."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"


def run(words: Sequence[str]) -> None:
    """Find the command, read its settings, call its function.

    Raises:
        UserError: There is no such command or setting, or a value is refused.
    """
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise UserError(
            f"there is no command {name}; "
            + (f"did you mean {near[0]}?" if near else f"choose {', '.join(COMMANDS)}")
        )
    command = COMMANDS[name]
    settings = read_settings(name, command.load_settings(), rest)
    _load(command.function)(settings)


def overview() -> str:
    """The commands, for `--help`."""
    lines = [f"usage: {PROGRAM} COMMAND [--name VALUE | NAME=VALUE] …", ""]
    lines += [f"  {name:19} {summary(each.load_settings())}" for name, each in COMMANDS.items()]
    lines += ["", f"{PROGRAM} COMMAND --help lists the settings of a command."]
    return "\n".join(lines)


def summary(settings: type) -> str:
    """The first sentence about a command."""
    return (inspect.getdoc(settings) or "").split("\n\n")[0].replace("\n", " ")


def read_settings(command: str, settings: type, words: Sequence[str]) -> Any:
    """The settings that words give, on top of those of a config file.

    Raises:
        UserError: A name, a value or the file is refused.
    """
    import tyro

    options = options_of(settings)
    if "-h" in words or "--help" in words:
        tyro.cli(parser_class(command, settings), prog=f"{PROGRAM} {command}", args=["--help"])
    given = texts_of(command, options, words)
    if CONFIG in given:
        (file,) = given.pop(CONFIG)
        given = read_config(command, options, Path(file)) | given
    arguments = [f"{options[name].flag}={_one_text(texts)}" for name, texts in given.items()]
    parsed: Any = tyro.cli(parser_class(command, settings, fixed=True), args=arguments)
    return build(settings, {name: getattr(parsed, options[name].field) for name in given})


def texts_of(
    command: str, options: Mapping[str, Option], words: Sequence[str]
) -> dict[str, list[str]]:
    """Name of a setting → the texts that words give it, from `--name value` and `NAME=value`.

    Raises:
        UserError: The command has no such setting, a value is missing, or is given twice.
    """
    places = [option.name for option in options.values() if option.declared.positional]
    given: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        named = NAMED.fullmatch(word)
        if named:
            name, text = named["name"], named["value"]
        elif word.startswith("--") and len(word) > 2:
            flag, separator, text = word[2:].partition("=")
            name = flag.replace("-", "_").upper()
            if not separator:
                is_switch = name in options and options[name].is_flag
                if is_switch and (not rest or places or rest[0][:1] == "-" or NAMED.match(rest[0])):
                    text = "1"
                elif rest and (name in options or name == CONFIG):
                    text = rest.pop(0)
                elif name in options or name == CONFIG:
                    raise UserError(f"{name} has no value; write --{flag} VALUE")
        else:
            name, text = places.pop(0) if places else "", word
            if not name:
                known, separator, value = word.partition("=")
                if separator and known.upper() in options:
                    remedy = f"write {known.upper()}={value} or --{known} {value}"
                else:
                    remedy = f"write --name {word} or NAME={word}"
                raise UserError(f"{word!r} is not a setting of {command}; {remedy}")
        if name not in options and name != CONFIG:
            raise UserError(no_setting(command, options, name))
        if not text.strip():
            raise UserError(f"{name} is empty; give it a value, or leave it out")
        if name in given and not (name in options and options[name].repeats):
            raise UserError(f"{name} is given twice; give it once")
        given.setdefault(name, []).append(text)
    return given


def no_setting(command: str, options: Mapping[str, Option], name: str) -> str:
    """What to say of a setting that a command does not have."""
    others = [
        other
        for other, each in COMMANDS.items()
        if other != command and name in options_of(each.load_settings())
    ]
    have = f" ({', '.join(others[:3])} {'has' if len(others) == 1 else 'have'} it)" * bool(others)
    near = difflib.get_close_matches(name, [*options, CONFIG], 1)
    remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join([*options, CONFIG])}"
    return f"{command} has no setting {name}{have}; {remedy}"


def read_config(command: str, options: Mapping[str, Option], path: Path) -> dict[str, list[str]]:
    """Name → texts of a TOML or YAML file of settings.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _toml(text) if path.suffix == ".toml" else _yaml(text)
    except OSError as error:
        raise UserError(f"CONFIG={path} cannot be read: {error.strerror}; check the path") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"CONFIG={path} is damaged: {reason}; correct the file") from None
    if not isinstance(found, dict):
        raise UserError(f"CONFIG={path} holds no settings; write lines such as scenes = 3")
    given = {}
    for key, value in found.items():
        name = str(key).upper().replace("-", "_")
        if name not in options:
            raise UserError(f"CONFIG={path}: {no_setting(command, options, name)}")
        values = value if isinstance(value, list) else [value]
        if not values or any(isinstance(each, (dict, list)) or each is None for each in values):
            raise UserError(f"CONFIG={path}: {name} has no value that can be used; give it one")
        if isinstance(value, list) and not options[name].repeats:
            raise UserError(f"CONFIG={path}: {name} is a list; give it one value")
        texts = [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
        given[name] = [json.dumps(texts)] if isinstance(value, list) else texts
    return given


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, yaml.BaseLoader)  # noqa: S506 - this loader makes only texts
    except yaml.YAMLError as error:
        raise ValueError(error) from None


def _one_text(texts: Sequence[str]) -> str:
    """Several texts as one, for settings that may be given several times."""
    if len(texts) == 1:
        return texts[0]
    items = [item for text in texts for item in (json_list(text) or [text])]
    return json.dumps(items, ensure_ascii=False)


def parser_class(command: str, settings: type, fixed: bool = False) -> type:
    """A dataclass with all settings of a command on one level, annotated for tyro.

    Args:
        command: Its name.
        settings: Its settings.
        fixed: For values whose names are known: no setting is positional, and values are checked
            by `Option.read` alone.
    """
    from dataclasses import field, make_dataclass

    import tyro

    columns = []
    for option in options_of(settings).values():
        kind: Any = Annotated[
            object,
            _constructor(option, not fixed),
            tyro.conf.arg(
                name=option.flag[2:],
                help=help_text(option),
                help_behavior_hint=f"(default: {option.shown_default})"
                if option.shown_default
                else "(required)"
                if option.declared.required
                else "",
            ),
        ]
        if option.declared.positional and not fixed:
            kind = Annotated[kind, tyro.conf.Positional]
        columns.append((option.field, kind, field(default=None)))
    config = tyro.conf.arg(name="config", help=f"{CONFIG_HELP}", metavar="FILE")
    columns.append(("config", Annotated[str | None, config], field(default=None)))
    made = make_dataclass(command.title().replace("-", ""), columns)
    made.__doc__ = inspect.getdoc(settings)
    return made


def _constructor(option: Option, complete: bool) -> Any:
    """How tyro reads a setting; with `complete` it knows the choices, and refuses others itself."""
    from tyro.constructors import PrimitiveConstructorSpec

    choices = ("0", "1") if option.is_flag else tuple(map(str, option.choices))
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}" if choices else option.name.split("_")[-1],
        instance_from_str=lambda texts: option.read(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
        choices=choices if complete and choices else None,
    )


def help_text(option: Option) -> str:
    """What a setting decides, and which values it takes."""
    values = "" if option.choices or option.is_flag else option.shown_values
    return f"{option.declared.help}{', ' * bool(values)}{values}"


def completion(settings: Any) -> None:
    """Print the script with which a shell completes commands and settings."""
    import tyro

    classes = tuple(
        Annotated[
            parser_class(name, command.load_settings()),
            tyro.conf.subcommand(name, prefix_name=False),
        ]
        for name, command in COMMANDS.items()
    )
    words = ["--tyro-print-completion", settings.shell]
    tyro.cli(Union[classes], prog=PROGRAM, args=words)  # noqa: UP007 - a tuple of types


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
