"""params.yaml, validated: every section a model, every mistake one line.

A stage asks for the sections that dvc.yaml declares for it and sees no others, so that what it reads
is what DVC tracks.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ltdi.errors import InputError
from pipeline.knobs import Count, Methods, NonNegative, Positive, Section, Share

Transforms = Literal["none", "rotations", "mirrored", "dihedral"]


class Data(Section):
    name: Literal["glyphs", "omniglot", "mini_imagenet"]
    root: Path
    download: bool
    train_on_val: bool
    mini_imagenet_size: Annotated[int, Field(ge=16)]


class Augment(Section):
    max_rotation: NonNegative
    max_shift: Share
    max_scale: Annotated[float, Field(ge=0, lt=1)]
    max_shear: Share


class Body(Section):
    name: Annotated[str, Field(pattern=r"^(conv4|resnet12|timm/.+)$")]
    weights: Path | None
    image_size: Annotated[int, Field(ge=16)] | None
    filters: Count
    transforms: Transforms
    steps: Count
    classes_a_batch: Annotated[int, Field(ge=2)]
    images_a_class: Annotated[int, Field(ge=2)]
    lr: Positive
    weight_decay: NonNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "float32", "bfloat16"]
    augment: Augment


class Names(Section):
    encoder: str | None
    prompts: str
    descriptions: Path | None
    learn_from: Literal["images", "classifier"]
    classes: Path | None
    classifier: Path | None


class Tasks(Section):
    n_way: Annotated[int, Field(ge=2)]
    n_shot: Count
    n_query: Count
    train_n_way: Annotated[int, Field(ge=2)] | None
    transforms: Transforms
    val_transforms: Transforms
    meta_train: Count
    meta_val: Count
    meta_test: Count
    views: Annotated[int, Field(ge=0)]
    names: Names
    augment: Augment


class Scenario(Section):
    name: Literal["few_shot", "zero_shot"]


class Learner(Section):
    name: Literal["two_layer_head", "linear_head"]
    hidden: Count
    normalise: Literal["none", "unit", "centred", "auto"]
    projection: Count | None


class Trajectories(Section):
    start: Literal["fresh", "shared", "prototype", "ridge", "closed_form", "described", "softmax_rows", "text_ridge"]
    fit_on: Literal["class", "support", "rows"]
    augment: bool
    optimizer: Literal["sgd", "adam"]
    lr: Positive
    steps: Count
    length: Annotated[int, Field(ge=2)]
    sam: NonNegative
    shard_size: Count
    max_dropped: Share


class Method(Section):
    name: str
    controls: list[str]


class Diffusion(Section):
    steps: Count
    schedule: Literal["cosine", "linear"]
    prediction: Literal["epsilon", "weights", "difference", "v"]
    max_beta: Annotated[float, Field(gt=0, lt=1)]
    weighting: Literal["theorem", "weights"]
    visited: Share
    chain_noise: NonNegative
    start_noise: NonNegative
    gradient_input: bool


class Denoiser(Section):
    name: Literal["transformer", "unet"]
    width: Count
    depth: Count
    heads: Count
    neurons_a_token: Count
    condition: Literal["mean", "attention"]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Meta(Section):
    steps: Count
    n_way: Annotated[int, Field(ge=2)]
    min_shot: Count
    max_shot: Count
    new_tasks: Annotated[int, Field(ge=0)]
    recorded_tasks: Annotated[int, Field(ge=0)]
    inner_steps: Count
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive
    outer_lr: Positive
    lr_schedule: Literal["cosine", "constant"]
    ema: Annotated[float, Field(ge=0, lt=1)]
    weight_loss: NonNegative
    query_loss: NonNegative
    query_images: Count
    val_every: Count


class Generate(Section):
    heads: Count
    adapt_steps: Annotated[int, Field(ge=0)]
    adapt_lr: Positive
    timing_repeats: Count
    chains: Count


class Evaluate(Section):
    task: Annotated[int, Field(ge=0)]
    landscape_points: Annotated[int, Field(ge=5)]


SECTIONS: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0)],
    "scenario": Scenario,
    "data": Data,
    "body": Body,
    "tasks": Tasks,
    "learner": Learner,
    "trajectories": Trajectories,
    "method": Method,
    "methods": Methods,
    "diffusion": Diffusion,
    "denoiser": Denoiser,
    "meta": Meta,
    "generate": Generate,
    "evaluate": Evaluate,
}


def load(path: str | Path, *sections: str) -> SimpleNamespace:
    """The named sections of a params file.

    Raises:
        InputError: the file is missing or not YAML, or a section or key is missing, unknown or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; run from the folder that holds params.yaml, or name one with --params")
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds {type(raw).__name__}, not a mapping of sections")
    unknown = sorted(set(map(str, raw)) - set(SECTIONS))
    if unknown:
        raise InputError(f"{path}: unknown section {unknown[0]!r}; allowed: {', '.join(SECTIONS)}")
    return SimpleNamespace(**{name: _section(path, name, raw) for name in sections})


def _section(path: Path, name: str, raw: dict) -> object:
    if name not in raw:
        raise InputError(f"{path}: section {name!r} is missing; copy it from the params.yaml of the repository")
    try:
        return TypeAdapter(SECTIONS[name]).validate_python(raw[name])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (name, *first["loc"])))
        if first["type"] == "missing":
            raise InputError(f"{path}: {key} is missing; copy it from the params.yaml of the repository") from error
        if first["type"] == "extra_forbidden":
            allowed = (
                ", ".join(SECTIONS[name].model_fields)
                if len(first["loc"]) == 1
                else "see the params.yaml of the repository"
            )
            raise InputError(f"{path}: {key} = {first['input']!r} is unknown; allowed keys: {allowed}") from error
        raise InputError(
            f"{path}: {key} = {first['input']!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"
        ) from error
