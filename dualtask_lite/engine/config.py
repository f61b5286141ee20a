"""Every setting in one place: named, validated, with a profile for each kind of machine.

A settings file is YAML with the sections below; missing settings come from its ``profile`` and ``stage``. The
``config.yaml`` of a run folder holds all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from dualtask_lite.engine.nested import as_nested, did_you_mean, differences, merge
from dualtask_lite.engine.profiles import COARSE, PROFILES, TUMOUR, TUMOUR_TERMS
from dualtask_lite.engine.strict_yaml import parse_yaml
from dualtask_lite.errors import DualTaskError
from dualtask_lite.files import whole_file
from dualtask_lite.method.losses import PAPER_WEIGHTS, TERMS
from dualtask_lite.method.views import KERNEL_SIZES


def _as_typed(value: Any) -> Any:
    """The name that was typed; of a plain integer it is known, but 1.10 has already become 1.1."""
    if isinstance(value, (bool, float)):
        raise ValueError("this name reads as a number or a truth value, so put it in quotes")
    return str(value) if isinstance(value, int) else value


Name = Annotated[str, BeforeValidator(_as_typed)]
Triple = tuple[float, float, float]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of settings; it is immutable and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Stage(Section):
    """Target and region of one stage of the cascade (METHOD, section Data)."""

    target: Literal["pancreas", "tumour"]  # a tumour voxel counts as pancreas when the target is the pancreas
    region: Literal["volume", "pancreas", "tumour"]  # the box that it processes: whole volume, or around an organ
    margin: float = Field(ge=0)  # mm added to that box on every side
    jitter: float = Field(0, ge=0)  # mm; each face of that box moves by at most this, for each training sample

    @property
    def regions(self) -> tuple[str, ...]:
        """The organs around which its box may lie, the preferred one first; without any it is the whole volume."""
        return {"tumour": ("tumour", "pancreas"), "pancreas": ("pancreas",), "volume": ()}[self.region]


STAGES: dict[str, Stage] = {  # in the order in which a cascade runs
    "pancreas-coarse": Stage(target="pancreas", region="volume", margin=0),
    "pancreas-fine": Stage(target="pancreas", region="pancreas", margin=25),
    "tumour-coarse": Stage(target="tumour", region="pancreas", margin=20),
    "tumour-fine": Stage(target="tumour", region="tumour", margin=20, jitter=10),
}
StageName = Literal["pancreas-coarse", "pancreas-fine", "tumour-coarse", "tumour-fine"]


class Data(Section):
    """Which cases train the model."""

    source: Name = "phantom"  # a known source, or a folder in Task07 or nnU-Net layout
    held_out: Name | None = None  # this centre is not used, neither for a threshold nor for early stopping
    cases: tuple[Name, ...] | None = None  # only these ids
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2  # share of the training cases kept for validation


class Sample(Section):
    """How a training sample is cut from a case."""

    spacing: Triple = (3.0, 3.0, 3.0)  # mm; the grid of the network, for every scanner
    patch: tuple[int, int, int] = (48, 48, 32)  # voxels of that grid, each a multiple of 8
    foreground: Share = 0.7  # share of the patches centred on a voxel of the target

    @field_validator("spacing")
    @classmethod
    def _plausible_spacing(cls, spacing: Triple) -> Triple:
        if not all(0.1 <= s <= 20 for s in spacing):
            raise ValueError("each spacing lies between 0.1 and 20 mm")
        return spacing

    @field_validator("patch")
    @classmethod
    def _multiple_of_8(cls, patch: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(p < 8 or p % 8 for p in patch):
            raise ValueError("each side of the patch is a multiple of 8, because the network halves it three times")
        return patch


class Augment(Section):
    """Random changes of a training sample (METHOD, section Data)."""

    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2  # zoom drawn from 1 - scale to 1 + scale
    rotation: float = Field(15.0, ge=0, le=180)  # degrees about each axis, in both directions
    elastic: Share = 0.1  # probability of a mild elastic deformation
    flip: Share = 0.5  # probability, for each axis on its own
    gamma: Share = 0.3  # probability of a gamma between 0.7 and 1.5
    noise: Share = 0.3  # probability of Gaussian noise with a standard deviation up to 0.05


class Views(Section):
    """The random-convolution imaging views of a sample (METHOD, section Objective)."""

    count: Literal[1, 2] = 2  # 1: the unchanged image; 2: two views, which share the labels
    max_blend: Share = 1.0  # 1: as published; less: the view is more similar to the image
    keep_first: bool = False  # the first of two views is the image itself
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES  # voxels; one is drawn for each view

    @field_validator("kernel_sizes")
    @classmethod
    def _odd(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
            raise ValueError("give at least one size, each of them odd, so that the image is not shifted")
        return sizes


class Network(Section):
    """Size of the dual-task U-Net."""

    width: int = Field(32, ge=8, multiple_of=8)  # channels after the stem; 32 is the paper's
    standardise: bool = True  # weight standardisation of every 3x3x3 convolution


class Objective(Section):
    """The named terms and their weights; a term with weight 0 is off, one that is not named keeps the profile's."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=lambda: dict(PAPER_WEIGHTS))
    tau: Positive = 2.0  # mm, temperature of the task conversion
    band: Positive = 20.0  # mm at which the regressed distance is clipped
    surface_weight: float = Field(1.0, ge=1)  # weight of the distance error near the surface
    ramp: Share = 0.0  # share of the run over which all terms but seg and dist grow to their weight

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(weights) - set(TERMS)):
            raise ValueError(f"unknown term {unknown[0]!r}{did_you_mean(unknown[0], TERMS)}; terms: {', '.join(TERMS)}")
        if not any(weights.get(term) for term in ("seg", "dist")):
            raise ValueError("at least one of seg and dist needs a weight above 0: the other terms only add to them")
        return weights

    def on(self, term: str) -> bool:
        """Whether the weight of a term is above zero."""
        return self.weights.get(term, 0.0) > 0


class Optimiser(Section):
    """How the weights are updated."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1e-4
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["poly", "onecycle"] = "poly"  # poly: (1 - step / steps) ** 0.9
    steps: int = Field(20_000, ge=1)
    batch: int = Field(1, ge=1)  # samples a step, shared by all processes; each sample has `views.count` views
    clip: Positive = 12.0  # largest norm of the gradient
    average: int = Field(0, ge=0)  # steps that a moving average of the weights remembers; 0: the last weights are kept


class Prediction(Section):
    """How a trained model is applied."""

    flips: Literal[1, 2, 4, 8] = 8  # number of axis flips to average over
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of neighbouring windows
    heads: Literal["mean", "segmentation", "distance"] = "mean"  # the head whose probability gives the mask
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Machine(Section):
    """Device, memory and intervals."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: the fastest that the device supports
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    compile: bool = False  # torch.compile the network: minutes at the start, faster steps on a GPU
    recompute: bool = False  # activation checkpointing: much less memory, about a third more work
    cache_regions: bool = False  # keep training regions on disk, for thousands of CTs or several processes
    check_memory: bool = True  # estimate the memory of a step before the first one
    workers: int = Field(0, ge=0)  # loader processes for each training process; 0: in the main process
    checkpoint_every: int = Field(100, ge=1)  # steps
    validate_every: int = Field(100, ge=1)  # steps
    validate_cases: int = Field(16, ge=1)  # number of validation cases during the training; without flips
    gradients_every: int = Field(0, ge=0)  # steps between measurements of each term's share of the gradient; 0: never


class Settings(Section):
    """All settings of one training run; see the sections for what each means."""

    profile: Literal["laptop", "reference", "colab", "gpu", "paper"] = "laptop"
    stage: StageName = "tumour-coarse"
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Data()
    sample: Sample = Sample()
    augment: Augment = Augment()
    views: Views = Views()
    network: Network = Network()
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    prediction: Prediction = Prediction()
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.views.count == 1 and self.objective.on("out"):
            raise ValueError("objective.weights.out compares two views: set views.count to 2, or that weight to 0")
        head = self.prediction.heads
        if not {"segmentation": self.has_segmentation, "distance": self.has_distance}.get(head, True):
            raise ValueError(f"prediction.heads is {head}, but no term of the objective trains that head")
        if self.prediction.flips > 1 and not self.augment.flip:
            raise ValueError(
                "prediction.flips predicts mirrored images, which a training without flips never shows: set "
                "prediction.flips to 1, or augment.flip above 0"
            )
        return self

    @property
    def has_segmentation(self) -> bool:
        """Whether some term trains the segmentation head on the truth."""
        return any(self.objective.on(term) for term in ("seg", "conv_distance"))

    @property
    def has_distance(self) -> bool:
        """Whether some term trains the distance head on the truth; otherwise the network has no such head."""
        return any(self.objective.on(term) for term in ("dist", "conv_mask"))

    @property
    def trains_segmentation_head(self) -> bool:
        """Whether the segmentation head, which every network has, gets a gradient, maybe from ``out`` alone."""
        return self.has_segmentation or self.objective.on("out")

    @classmethod
    def of(cls, profile: str = "laptop", overrides: Mapping[str, Any] | None = None) -> Settings:
        """Create the settings of a profile, with overrides.

        Args:
            profile: ``laptop``, ``reference``, ``colab``, ``gpu`` or ``paper``.
            overrides: values by dotted name (``{"optimiser.steps": 50}``) or by nested mapping.

        Raises:
            DualTaskError: on an unknown or ill-typed setting; it names the nearest valid one.
        """
        return resolve({"profile": profile, **as_nested(overrides or {})}, origin="settings")

    @classmethod
    def read(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read settings from a YAML file, with overrides by dotted name.

        A file that holds every setting, such as the ``config.yaml`` of a run, stands for what differs from its profile
        and stage: with another profile or stage in ``overrides``, all other settings are those of the new one.

        Raises:
            DualTaskError: when the file cannot be read or a setting is unknown or ill-typed.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DualTaskError(f"{path}: cannot be read as YAML ({error})", "give a readable settings file") from error
        values = parse_yaml(text, str(path))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise DualTaskError(
                f"{path}: holds a {type(values).__name__}, not settings",
                "write lines of the form name: value",
            )
        changes = as_nested(overrides or {})
        if changes.keys() & {"profile", "stage"}:
            values = _without_defaults(values, origin=str(path))
        return resolve(merge(values, changes), origin=str(path))

    def changed(self, overrides: Mapping[str, Any]) -> Settings:
        """A validated copy with some values changed, by dotted name."""
        return _validated(merge(self.model_dump(mode="json"), as_nested(overrides)), origin="settings")

    def write(self, path: Path) -> None:
        """Write the settings as YAML."""
        with whole_file(path) as temporary:  # half a file would be valid, but different settings
            temporary.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def resolve(values: Mapping[str, Any], *, origin: str) -> Settings:
    """Add missing settings from the profile and the stage, and validate all of them."""
    choice = _validated({key: values[key] for key in ("profile", "stage") if key in values}, origin=origin)
    merged = merge({"profile": choice.profile, "stage": choice.stage}, PROFILES[choice.profile])
    if choice.stage == "pancreas-coarse":
        merged = merge(merged, COARSE[choice.profile])
    if choice.profile == "paper":
        merged = merge(merged, TUMOUR.get(choice.stage, {}))
    weights = merged["objective"].get("weights", PAPER_WEIGHTS)
    if STAGES[choice.stage].target == "pancreas":
        weights = {term: weight for term, weight in weights.items() if term not in TUMOUR_TERMS}
    merged = merge(merged, {"objective": {"weights": weights}})
    return _validated(merge(merged, values), origin=origin)


def _without_defaults(values: Mapping[str, Any], *, origin: str) -> Mapping[str, Any]:
    """Of values that are all settings of a run, those that its profile and stage do not set; else the same values."""
    own = resolve(values, origin=origin)
    if values != own.model_dump(mode="json"):
        return values
    kind = {"profile": own.profile, "stage": own.stage}
    return {**kind, **differences(values, resolve(kind, origin=origin).model_dump(mode="json"))}


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Convert ``key=value`` arguments of the command line into overrides; values are YAML."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise DualTaskError(
                f"--set {assignment}: not of the form key=value", "write for example --set optimiser.steps=50"
            )
        overrides[key.strip()] = parse_yaml(value, f"--set {assignment}")
    return overrides


def _validated(values: Mapping[str, Any], *, origin: str) -> Settings:
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _setting_names(Settings)
            section, dot, setting = str(first["loc"][-1]).partition(".")
            if dot and name in known:
                raise DualTaskError(
                    f"{origin}: {name!r} stands in one line", f"write {section}: and below it, indented, {setting}: ..."
                ) from error
            raise DualTaskError(
                f"{origin}: unknown setting {name!r}",
                f"remove it{did_you_mean(name, known) or ', or see the sections of dualtask_lite.engine.config'}",
            ) from error
        reason = first["msg"].removeprefix("Value error, ")
        where = f"setting {name!r}: " if name else ""
        shown = f" (it is {first['input']!r})" if name and not isinstance(first["input"], (dict, BaseModel)) else ""
        raise DualTaskError(f"{origin}: {where}{reason}{shown}", "correct this value") from error


def _setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for field, info in model.model_fields.items():
        names.append(prefix + field)
        if isinstance(info.default, Section):
            names += _setting_names(type(info.default), f"{prefix}{field}.")
    return names
