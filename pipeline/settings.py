"""What a run is: typed, strict settings, and the hash that goes into every row.

`RunSettings` holds only what can change a pixel or an annotation. How many scenes, how many
workers and where they run are not part of it, so a dataset may grow and move between machines.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "infinigen_configs"

GENERATORS = ("indoors", "rooms", "house", "spheres")
"""`indoors`: InfiniGen v1 Indoors; `rooms`, `house`: InfiniGen v2; `spheres`: a small analytic
Blender scene without InfiniGen, for tests and for trying out a cluster."""

SHARE_DIGITS = 6
"""Decimals of a generator's share in a mix; a smaller share is none."""

PASSES = ("depth", "normal")
MIN_WIDTH, MAX_WIDTH = 64, 8192


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
    """

    width: int
    samples: int
    max_bounces: int
    fast_gi: bool
    light_tree: bool
    bump: bool
    gpu: bool


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
    ),
}


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides what a run's panoramas and annotations look like.

    Attributes:
        generators: (name, weight) pairs, kept by name and as shares of 1, so that equal mixes
            are equal however they are written; the generator of a seed is drawn by these weights
            from a hash of the seed, so it never depends on which scenes ran before.
        seed: First seed; scene i of the run uses seed + i (and further ones replace failures).
        panos: Panoramas per scene, at most (a small room may have fewer good viewpoints).
        profile: Name in `PROFILES`.
        width: Panorama width in pixels (even, height = width / 2).
        samples: Cycles samples per pixel.
        passes: Extra render passes to keep, out of `PASSES`.
        min_area: Smallest kept instance, in pixels of a 4096 × 2048 panorama; scaled by the
            pixel ratio at other widths.
    """

    generators: tuple[tuple[str, float], ...] = (("indoors", 1.0),)
    seed: int = 0
    panos: int = 2
    profile: str = "cpu"
    width: int = 4096
    samples: int = 2
    passes: tuple[str, ...] = ()
    min_area: int = 100

    def __post_init__(self) -> None:
        if not self.generators:
            raise UserError(f"GENERATOR is empty; choose from {', '.join(GENERATORS)}")
        for name, weight in self.generators:
            if name not in GENERATORS:
                raise UserError(
                    f"unknown generator {name!r}; choose from {', '.join(GENERATORS)}, "
                    "or a weighted mix such as indoors:3,rooms:1"
                )
            if not 0 < weight < float("inf"):
                raise UserError(f"the weight of generator {name!r} must be positive, not {weight}")
        if len({name for name, _ in self.generators}) != len(self.generators):
            raise UserError("GENERATOR names a generator twice; give each one weight")
        object.__setattr__(self, "generators", _shares(self.generators))
        if not 0 <= self.seed <= 2**31 - 1:
            raise UserError(f"SEED must be between 0 and {2**31 - 1}, not {self.seed}")
        if self.panos < 1:
            raise UserError(f"PANOS must be at least 1, not {self.panos}")
        if self.profile not in PROFILES:
            raise UserError(
                f"unknown profile {self.profile!r}; choose from {', '.join(PROFILES)} or auto"
            )
        if self.width % 2 or not MIN_WIDTH <= self.width <= MAX_WIDTH:
            raise UserError(
                f"WIDTH must be an even number of pixels from {MIN_WIDTH} to {MAX_WIDTH}, so that "
                f"the panorama is exactly 2:1, not {self.width}"
            )
        if self.samples < 1:
            raise UserError(f"SAMPLES must be at least 1, not {self.samples}")
        for name in self.passes:
            if name not in PASSES:
                raise UserError(f"unknown pass {name!r}; choose from {', '.join(PASSES)}")
        if self.min_area < 1:
            raise UserError(f"MIN_AREA must be at least 1 pixel, not {self.min_area}")

    @property
    def height(self) -> int:
        return self.width // 2

    @property
    def min_area_pixels(self) -> int:
        """Smallest kept instance in pixels of this run's panoramas."""
        return max(1, round(self.min_area * (self.width / 4096) ** 2))


def make_settings(
    *,
    generator: str = "indoors",
    profile: str = "cpu",
    width: int | None = None,
    samples: int | None = None,
    passes: str = "",
    **others: int,
) -> RunSettings:
    """Build settings from command-line text; the profile fills in what is not given.

    >>> make_settings(generator="indoors:3,rooms:1", profile="draft").generators
    (('indoors', 0.75), ('rooms', 0.25))
    """
    if profile not in PROFILES:
        raise UserError(f"unknown profile {profile!r}; choose from {', '.join(PROFILES)} or auto")
    defaults = PROFILES[profile]
    return RunSettings(
        generators=parse_mix(generator),
        profile=profile,
        width=defaults.width if width is None else width,
        samples=defaults.samples if samples is None else samples,
        passes=tuple(sorted({name.strip() for name in passes.split(",") if name.strip()})),
        **others,
    )


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """Parse `indoors` or `indoors:3,rooms:1` into (name, weight) pairs."""
    mix = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            mix.append((name.strip(), float(weight or 1)))
        except ValueError:
            raise UserError(
                f"the weight {weight!r} of generator {name!r} is not a number; "
                "write a mix as indoors:3,rooms:1"
            ) from None
    return tuple(mix)


def _shares(mix: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    """A mix by name, its weights as shares of 1; the shares of shares are the same.

    >>> _shares((("rooms", 1), ("indoors", 2)))
    (('indoors', 0.666667), ('rooms', 0.333333))
    """
    total = sum(weight for _, weight in mix)
    shares = {name: round(weight / total, SHARE_DIGITS) for name, weight in sorted(mix)}
    for name, share in shares.items():
        if not share:
            raise UserError(f"generator {name!r} is less than a millionth of the mix; leave it out")
    largest = max(shares, key=lambda name: shares[name])  # takes the rounding, so that 1 is left
    rest = sum(share for name, share in shares.items() if name != largest)
    shares[largest] = round(1 - rest, SHARE_DIGITS)
    return tuple(shares.items())


def generator_of_seed(settings: RunSettings, seed: int) -> str:
    """The generator that makes a seed's scene: a weighted draw from a hash of the seed."""
    if len(settings.generators) == 1:
        return settings.generators[0][0]
    digest = hashlib.sha256(f"generator {seed}".encode()).digest()
    total = sum(weight for _, weight in settings.generators)
    point = int.from_bytes(digest[:8], "big") / 2**64 * total
    for name, weight in settings.generators:
        point -= weight
        if point < 0:
            return name
    return settings.generators[-1][0]


def config_of(generator: str) -> Path:
    """The generator's file in `infinigen_configs/` (`spheres` has none)."""
    return CONFIG_FOLDER / f"{generator}{'.gin' if generator == 'indoors' else '.toml'}"


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
    paths = [config_of(name) for name, _ in settings.generators]
    configs = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()
    }
    profile = asdict(PROFILES[settings.profile])
    text = json.dumps([asdict(settings), profile, versions(), configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_json(settings: RunSettings) -> dict[str, Any]:
    """Settings as plain JSON types."""
    return json.loads(json.dumps(asdict(settings)))


def from_json(data: dict[str, Any]) -> RunSettings:
    """The inverse of `to_json`; unknown keys are refused."""
    unknown = set(data) - {field.name for field in fields(RunSettings)}
    if unknown:
        raise UserError(f"unknown settings: {', '.join(sorted(unknown))}")
    return replace(
        RunSettings(),
        **{
            **data,
            "generators": tuple((name, weight) for name, weight in data["generators"]),
            "passes": tuple(data["passes"]),
        },
    )
