"""The program: commands, settings in all their spellings, what is refused and how."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline import cli, config
from pipeline.commands import run as run_commands
from pipeline.config import Coco, Render
from pipeline.run_settings import RunSettings, to_json
from pipeline.setting import Given, group, options_of, setting
from pipeline.settings_reference import reference

ROOT = Path(__file__).parents[1]


def read(*words: str, command: str = "render"):
    """The settings that words give a command."""
    return cli.read_settings(command, cli.COMMANDS[command].load_settings(), words)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which the program refuses."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--scenes", "3", "--min-area", "400", "--keep-scenes"],
        ["--scenes=3", "--min_area=400", "--keep-scenes", "1"],
        ["--keep-scenes", "--scenes=3", "--min_area=400"],
        ["--keep-scenes", "SCENES=3", "MIN_AREA=400"],
        ["SCENES=3", "MIN_AREA=400", "KEEP_SCENES=1"],
        ["SCENES=3", "--min-area", "400", "KEEP_SCENES=true"],
    ],
)
def test_all_spellings_are_equal(words):
    options = read(*words)
    assert options.scenes == 3
    assert options.run.build(profile="cpu").min_area == 400
    assert options.farm.build().keep_scenes is True


def test_groups_know_what_was_given():
    options = read("WIDTH=512")
    assert options == Render(run=Given(RunSettings, {"width": 512}))


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        (["PASSES=depth,normal"], ("depth", "normal")),
        (["--passes", "depth", "--passes", "normal"], ("depth", "normal")),
        (['PASSES=["depth", "normal"]'], ("depth", "normal")),
        (["--passes=depth"], ("depth",)),
    ],
)
def test_lists_are_read_in_each_spelling(words, passes):
    assert read(*words).run.values["passes"] == passes


ODD = [
    "my data",
    "it's",
    '"quoted"',
    "[1]",
    "$HOME",
    "a=b",
    "-x",
    "--help",
    "ü/日本",
    "a,b",
    "#",
    "\\",
]


@pytest.mark.parametrize("value", ODD)
def test_values_arrive_unchanged(value):
    assert read(f"OUT={value}").out == value
    assert read(f"--out={value}").out == value
    if value != "--help":
        assert read("--out", value).out == value
    listed = json.dumps([value, "other"], ensure_ascii=False)
    assert read("CPUS=1", f"RUNS={listed}", command="plan").runs == (value, "other")
    runs = ["--runs=other", f"--runs={value}"]
    assert read("--cpus=1", *runs, command="plan").runs == ("other", value)


def test_a_folder_with_a_comma_is_one_of_a_json_list():
    assert read("CPUS=1", 'RUNS=["a, b", "c"]', command="plan").runs == ("a, b", "c")


CONFIGS = {
    "run.toml": 'scenes = 3\nmin-area = 400\nkeep_scenes = true\npasses = ["normal", "depth"]\n',
    "run.yaml": "SCENES: 3\nmin_area: 400\nkeep_scenes: true\npasses: [normal, depth]\n",
}


def test_an_item_of_a_config_list_may_hold_a_comma(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('cpus = 1\nruns = ["my, folder"]\n')
    assert read(f"CONFIG={path}", command="plan").runs == ("my, folder",)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_gives_settings_and_words_win(tmp_path, name):
    path = tmp_path / name
    path.write_text(CONFIGS[name])
    expected = read("SCENES=3", "MIN_AREA=400", "KEEP_SCENES=1", "PASSES=normal,depth")
    assert read("--config", str(path)) == expected
    assert read(f"CONFIG={path}", "SCENES=5") == replace(expected, scenes=5)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "scens = 3", "render has no setting SCENS; did you mean SCENES?"),
        ("a.yaml", "cpus: 3", "render has no setting CPUS (plan has it)"),
        ("a.toml", "scenes = 'x'", "SCENES=x is not an integer"),
        ("a.toml", "scenes = []", "SCENES has no value"),
        ("a.toml", "scenes = [1, 2]", "SCENES is a list"),
        ("a.toml", "[scenes]\na = 1", "SCENES has no value"),
        ("a.toml", "scenes = ", "is damaged"),
        ("a.yaml", "scenes: [", "is damaged"),
        ("a.yaml", "3", "holds no settings"),
        ("a.yaml", "scenes:", "SCENES is empty"),
    ],
)
def test_a_wrong_config_file_is_one_line(capsys, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    assert said in refusal(capsys, "render", "--config", str(tmp_path / name))


def test_a_missing_config_file_is_named(capsys, tmp_path):
    assert f"CONFIG={tmp_path} cannot be read" in refusal(capsys, "render", f"CONFIG={tmp_path}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["render", "SCENE=3"], "render has no setting SCENE; did you mean SCENES?"),
        (["render", "--scene-count=3"], "render has no setting SCENE_COUNT"),
        (["verify", "SCENES=3"], "verify has no setting SCENES (render, plan have it)"),
        (["status", "DATA=x"], "status has no setting DATA (verify, stats, coco"),
        (["render", "OUT="], "OUT is empty; give it a value, or leave it out"),
        (["render", "--out", " "], "OUT is empty"),
        (["render", "--scenes"], "SCENES has no value"),
        (["render", "SCENES=1", "--scenes", "2"], "SCENES is given twice"),
        (["render", "3"], "'3' is not a setting of render"),
        (["rendr"], "there is no command rendr; did you mean render?"),
        (["render", "--scenes=abc"], "SCENES=abc is not an integer"),
        (["render", "--scenes=0"], "SCENES=0 is out of range; choose at least 1"),
        (["render", "--min-area=1.5"], "MIN_AREA=1.5 is not an integer"),
        (["render", "--waiting-gib=inf"], "WAITING_GIB=inf is out of range"),
        (["render", "--keep-scenes=yes"], "KEEP_SCENES=yes is not 0 or 1"),
        (["render", "GENERATOR=indoors:x"], "GENERATOR=indoors:x is not"),
        (["render", "PROFILE=fast"], "PROFILE=fast is unknown; choose auto, draft, cpu, farm"),
        (["render", "PASSES=depth,flow"], "PASSES=flow is unknown"),
        (["coco", "FORMAT=gif"], "FORMAT=gif is unknown; choose webp, png, jpg"),
        (["plan"], "CPUS is not given; give it, for example CPUS=64"),
        (["publish", "LICENSE=cc0-1.0"], "REPO is not given"),
        (["import-coco", "a.json", "s3://bucket/x"], "OUT=s3://bucket/x is not a path of this"),
        (["import-coco", "~nobody-of-this-name/a", "x"], "SOURCE=~nobody-of-this-name/a is not"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, words, said):
    assert refusal(capsys, *words).startswith(said)


# ---- one edit adds a setting ---------------------------------------------------------------------


@dataclass(frozen=True)
class BrighterRun(RunSettings):
    exposure: float = setting(1.5, help="stops added to the picture", unit="stops", at_most=9)


@dataclass(frozen=True)
class BrighterRender(Render):
    run: Given[RunSettings] = group(BrighterRun, profile="auto")


def test_one_field_is_a_setting_everywhere(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(config, "Render", BrighterRender)
    (tmp_path / "run.toml").write_text("exposure = 2")
    for words in (["EXPOSURE=2"], ["--exposure", "2"], ["--config", f"{tmp_path}/run.toml"]):
        settings = read(*words).run.build(profile="draft")
        assert settings.exposure == 2.0
        assert to_json(settings)["exposure"] == 2.0
    assert "EXPOSURE=10 is out of range" in refusal(capsys, "render", "EXPOSURE=10")
    with pytest.raises(SystemExit):
        read("--help")
    shown = capsys.readouterr().out
    assert "--exposure" in shown and "(default: 1.5)" in shown
    assert "| `EXPOSURE` | 1.5 | at most 9 stops | stops added to the picture |" in reference()


def test_the_settings_reference_is_current():
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == reference(), (
        "write it again: sap-panorama settings-reference > docs/settings.md"
    )


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_shows_its_settings(capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in options_of(cli.COMMANDS[command].load_settings()).values():
        assert option.flag in shown or option.declared.positional
    assert "--config FILE" in shown


def test_the_overview_names_every_command(capsys):
    for words in ([], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {command} " in shown for command in cli.COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_settings(capsys, shell):
    with pytest.raises(SystemExit) as ended:
        cli.main(["completion", shell])
    assert not ended.value.code
    script = capsys.readouterr().out
    assert all(word in script for word in ("publish", "min-area", "webp"))


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory) -> Path:
    command = [sys.executable, "-m", "pipeline", "completion", "bash"]
    script = tmp_path_factory.mktemp("completion") / "script"
    script.write_bytes(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return script


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("pub", {"publish"}),
        ("render --min", {"--min-area", "--min-free-gib"}),
        ("coco --format ''", {"webp", "png", "jpg"}),
    ],
)
def test_bash_completes(bash_script, words, completions):
    lines = (
        f"source {bash_script}; COMP_WORDS=(sap-panorama {words}); "
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _tyro_sap_panorama; printf '%s\\n' ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True)
    assert set(done.stdout.split()) == completions, done.stderr


# ---- how the program ends ------------------------------------------------------------------------


def ended_by(monkeypatch, error: BaseException):
    """The exit status of a command that ends with an error."""

    def status(options):
        raise error

    monkeypatch.setattr(run_commands, "status", status)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status"])
    return ended.value.code


def test_ctrl_c_is_status_130(capsys, monkeypatch):
    assert ended_by(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_ctrl_c_of_a_command_that_resumes_says_so(capsys, monkeypatch):
    def render(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_commands, "render", render)
    with pytest.raises(SystemExit):
        cli.main(["render"])
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EROFS])
def test_a_path_that_cannot_be_used_is_one_line(capsys, monkeypatch, number):
    assert ended_by(monkeypatch, OSError(number, "not here", "/some/file")) == 2
    assert capsys.readouterr().err.startswith("error: cannot use /some/file: not here;")


def test_a_full_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot use the output: ")


def test_what_a_terminal_cannot_show_is_escaped():
    code = "import pipeline.cli as c; c.run = lambda words: print('°'); c.main(['x'])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "\\xb0\n")


def test_a_missing_package_is_one_line(capsys, monkeypatch):
    assert ended_by(monkeypatch, ModuleNotFoundError(name="pyarrow")) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: package pyarrow is missing; run: make setup EXTRAS=render")
    assert said.count("\n") == 1
    for ours in ("pipeline.nothing", "pipeline", "json"):
        with pytest.raises(ModuleNotFoundError):
            ended_by(monkeypatch, ModuleNotFoundError(name=ours))


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m pipeline settings-reference | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "# Settings\n" and done.stderr == ""


HEAVY = ("torch", "ray", "bpy", "pyarrow", "cv2", "numpy")
UNIX = ("fcntl", "resource")


def test_the_command_line_starts_quickly_and_anywhere():
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({UNIX}))\n"  # None: an import of it fails
        "from pipeline import cli\n"
        "cli.overview()\n"
        "cli.read_settings('render', cli.COMMANDS['render'].load_settings(), ['SCENES=3'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert time.monotonic() - started < 10


def test_options_of_two_groups_do_not_clash():
    @dataclass(frozen=True)
    class Twice(Coco):
        width: int = setting(3, help="another width")
        run: Given[RunSettings] = group(RunSettings)

    with pytest.raises(TypeError, match="WIDTH twice"):
        options_of(Twice)
