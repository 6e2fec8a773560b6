"""What a run is: typed, strict settings, and the hash that goes into every row.

`RunSettings` holds only what can change a pixel or an annotation. How many scenes, how many
workers and where they run are not part of it, so a dataset may grow and move between machines.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.layout import RunFolder, read_json
from pipeline.mix import Mix, draw_from_mix, normalise_mix, parse_mix
from pipeline.setting import Settings, setting

CONFIG_FOLDER = Path(str(files("infinigen_configs")))

GENERATORS = ("indoors", "rooms", "house", "spheres")
"""`indoors`: InfiniGen v1 Indoors; `rooms`, `house`: InfiniGen v2; `spheres`: a small analytic
Blender scene without InfiniGen, for tests and for trying out a cluster."""

DETAILS = ("fast", "rich", "full")
"""How much of InfiniGen v1 goes into a scene of `indoors`; the other generators have one level.
What differs is in infinigen_configs/indoors_<detail>.gin."""

LIGHTINGS = ("day", "evening", "lamps_off")
"""`day`: daylight, and lamps are on; `evening`: lamps are on, windows are dark; `lamps_off`:
daylight alone, where every viewpoint sees a window (`day` elsewhere)."""

FILES = "files"
"""Generator of scenes that are files: `GENERATOR=files:PATTERN`. The file of seed i is the i-th
that the pattern matches, by name, counted from 0."""

FILE_SUFFIXES = (".blend", ".glb", ".gltf", ".usd", ".usda", ".usdc", ".usdz", ".fbx", ".obj")

PASSES = ("albedo", "depth", "normal")
MAX_SEED = 2**31 - 1


def parse_generators(text: str) -> Mix:
    """A mix of generators, or `files:PATTERN` as its only name, with an absolute pattern.

    Raises:
        ValueError: A weight is not a number.
    """
    kind, _, pattern = text.strip().partition(":")
    if kind == FILES and pattern:
        known = os.path.expanduser(pattern)  # noqa: PTH111 - pathlib raises for unknown users
        return ((f"{FILES}:{Path(known).absolute()}", 1.0),)
    return parse_mix(text)


@dataclass(frozen=True)
class Profile:
    """How Cycles renders one panorama.

    Attributes:
        width: Panorama width in pixels; the height is half of it.
        samples: Cycles samples per pixel.
        max_bounces: Light bounces.
        fast_gi: Replace all bounces after the first by Cycles' fast GI approximation.
        light_tree: Sample lights through Cycles' light tree.
        bump: Keep the materials' bump and displacement; on a CPU they are two thirds of the cost
            of a sample.
        gpu: Render on a GPU; a machine without one then refuses.
        detail: Level of the scenes, from `DETAILS`.
    """

    width: int
    samples: int
    max_bounces: int
    fast_gi: bool
    light_tree: bool
    bump: bool
    gpu: bool
    detail: str


PROFILES = {
    # for looking at things: seconds per panorama
    "draft": Profile(
        width=1024,
        samples=8,
        max_bounces=4,
        fast_gi=True,
        light_tree=False,
        bump=False,
        gpu=False,
        detail="fast",
    ),
    # 4K on a CPU in minutes: few samples, denoised, one bounce and ambient light for the rest
    "cpu": Profile(
        width=4096,
        samples=2,
        max_bounces=4,
        fast_gi=True,
        light_tree=False,
        bump=True,
        gpu=False,
        detail="fast",
    ),
    # 4K on a GPU: full light transport
    "farm": Profile(
        width=4096,
        samples=128,
        max_bounces=8,
        fast_gi=False,
        light_tree=True,
        bump=True,
        gpu=True,
        detail="rich",
    ),
}


@dataclass(frozen=True)
class RunSettings(Settings):
    """Everything that decides what a run's panoramas and annotations look like.

    `generators` are kept by name and as shares of 1, so that equal mixes are equal however they
    are written, and `lighting` too. Width, samples and detail that are not given are the profile's.
    """

    generators: tuple[tuple[str, float], ...] = setting(
        (("indoors", 1.0),),
        name="generator",
        parse=parse_generators,
        default_text="indoors",
        help=f"scene generator: {', '.join(GENERATORS)}, a mix by weight: indoors:3,rooms:1, or "
        "files:PATTERN, files as scenes: files:scenes/*.glb",
    )
    seed: int = setting(
        0,
        help="first seed; scene i uses SEED + i, and later seeds replace failed ones",
        at_least=0,
        at_most=MAX_SEED,
    )
    panos: int = setting(
        2, help="panoramas per scene; a small room may have fewer good viewpoints", at_least=1
    )
    profile: str = setting(
        "cpu",
        choices=("auto", *PROFILES),
        help="how Cycles renders; auto takes farm where Cycles finds a GPU, else cpu",
    )
    width: int = setting(
        None,
        help="width of a panorama, an even number; its height is half of it",
        unit="pixels",
        at_least=64,
        at_most=8192,
        default_text="the profile's",
    )
    samples: int = setting(
        None, help="Cycles samples per pixel", at_least=1, default_text="the profile's"
    )
    detail: str = setting(
        None,
        choices=DETAILS,
        help="assets and solver steps of a scene of indoors",
        default_text="rich with PROFILE=farm, else fast",
    )
    lighting: tuple[tuple[str, float], ...] = setting(
        (("day", 1.0),),
        parse=parse_mix,
        default_text="day",
        help=f"time of day: {', '.join(LIGHTINGS)}, or a mix by weight: day:3,evening:1",
    )
    passes: tuple[str, ...] = setting((), help="extra render passes to keep", choices=PASSES)
    min_area: int = setting(
        100,
        help="smallest instance that is kept, in pixels of a 4096 × 2048 panorama",
        at_least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern:
            object.__setattr__(
                self, "generators", normalise_mix(self.generators, "GENERATOR", GENERATORS)
            )
        object.__setattr__(self, "lighting", normalise_mix(self.lighting, "LIGHTING", LIGHTINGS))
        object.__setattr__(self, "passes", tuple(sorted(set(self.passes))))
        if self.profile not in PROFILES:
            raise UserError(f"PROFILE={self.profile} is not resolved; choose {', '.join(PROFILES)}")
        for name in ("width", "samples", "detail"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(PROFILES[self.profile], name))
        if self.width % 2:
            raise UserError(
                f"WIDTH={self.width} is not even, so that no panorama is exactly 2:1; choose "
                f"{self.width + 1}"
            )

    @property
    def pattern(self) -> str:
        """The pattern of `GENERATOR=files:PATTERN`; empty for other generators."""
        name = self.generators[0][0] if len(self.generators) == 1 else ""
        return name.partition(":")[2] if name.startswith(f"{FILES}:") else ""

    @property
    def last_seed(self) -> int:
        """The last seed that has a scene."""
        return len(scene_files(self.pattern)) - 1 if self.pattern else MAX_SEED

    @property
    def height(self) -> int:
        return self.width // 2

    @property
    def min_area_pixels(self) -> int:
        """Smallest kept instance in pixels of this run's panoramas."""
        return max(1, round(self.min_area * (self.width / 4096) ** 2))


def make_settings(generator: str = "indoors", **others: Any) -> RunSettings:
    """Settings from a mix as text.

    >>> make_settings("indoors:3,rooms:1", profile="draft").generators
    (('indoors', 0.75), ('rooms', 0.25))
    """
    return RunSettings(parse_generators(generator), **others)


def generator_of_seed(settings: RunSettings, seed: int) -> str:
    """The generator that makes a seed's scene: a weighted draw from a hash of the seed."""
    if settings.pattern:
        return FILES
    return draw_from_mix(settings.generators, f"generator {seed}")


def scene_files(pattern: str) -> list[Path]:
    """The scene files that a pattern matches, by name.

    Raises:
        UserError: There is none.
    """
    found = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns
    files = sorted(path for path in found if path.suffix.lower() in FILE_SUFFIXES)
    if not files:
        raise UserError(
            f"GENERATOR=files:{pattern} matches no scene; give files with the suffix "
            f"{', '.join(FILE_SUFFIXES)}"
        )
    return files


def lighting_of_seed(settings: RunSettings, seed: int) -> str:
    """How a seed's scene is lit: a weighted draw from a hash of the seed."""
    return draw_from_mix(settings.lighting, f"lighting {seed}")


def config_of(generator: str, detail: str) -> Path:
    """The generator's file in `infinigen_configs/` (`spheres` has none)."""
    return CONFIG_FOLDER / (
        f"indoors_{detail}.gin" if generator == "indoors" else f"{generator}.toml"
    )


def scene_id(settings: RunSettings, seed: int) -> str:
    """Name of a seed's scene: generator and seed, sortable, safe as a folder name.

    >>> scene_id(RunSettings(), 12)
    'indoors-0000000012'
    """
    return f"{generator_of_seed(settings, seed)}-{seed:010d}"


def versions() -> dict[str, str]:
    """Versions of what decides the pixels; `absent` where a package is not installed."""
    found = {"pipeline": __version__}
    for package in ("infinigen", "bpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def settings_hash(settings: RunSettings) -> str:
    """12 hex digits over settings, profile, package versions and the generators' configurations."""
    paths = [config_of(name, settings.detail) for name, _ in settings.generators]
    configs = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()
    }
    profile = asdict(PROFILES[settings.profile])
    text = json.dumps([asdict(settings), profile, versions(), configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_json(settings: RunSettings) -> dict[str, Any]:
    """Settings as plain JSON types."""
    return json.loads(json.dumps(asdict(settings)))


def read_run_settings(folder: Path, name: str = "OUT") -> tuple[RunSettings, str]:
    """The settings with which a run was started, and their hash at that time.

    Args:
        folder: The run's OUT.
        name: The setting that names this folder, for messages.

    Raises:
        UserError: The folder holds no run, or run.json is damaged or of a later version.
    """
    path = RunFolder(folder).settings
    remedy = "restore it from a copy, or choose another folder"
    try:
        about = read_json(path, remedy)
        return from_json(about["settings"], path), str(about["settings_hash"])
    except FileNotFoundError:
        raise UserError(
            f"{name}={folder} is not the folder of a run, for it has no run.json; give the OUT of "
            "make render"
        ) from None
    except UserError:
        raise
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; {remedy}") from None


def from_json(data: dict[str, Any], where: object = "run.json") -> RunSettings:
    """The inverse of `to_json`.

    Raises:
        UserError: There are settings that this version does not know; it names `where`.
    """
    unknown = set(data) - {field.name for field in fields(RunSettings)}
    if unknown:
        raise UserError(
            f"{where} has settings that this version does not know ({', '.join(sorted(unknown))});"
            " use the version that wrote it, or choose another OUT"
        )
    return replace(
        RunSettings(),
        **{
            **data,
            **{
                name: tuple((entry, weight) for entry, weight in data[name])
                for name in ("generators", "lighting")
                if name in data
            },
            "passes": tuple(data["passes"]),
        },
    )
