"""The sections of params.yaml: what each key may be."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.common.hparams import AtATime, Count, Methods, NonNegative, Positive, Section, Seed, Share

Transforms = Literal["none", "rotations", "mirrored", "dihedral"]


class Domains(Section):
    train: list[str]
    val: list[str]
    test: list[str]


class Data(Section):
    name: Literal[
        "glyphs",
        "omniglot",
        "mini_imagenet",
        "folder",
        "tiny_imagenet",
        "imagenet",
        "pacs",
        "domainnet",
        "cifar10",
        "cifar100",
        "stl10",
        "aircraft",
        "pets",
    ]
    root: Path
    download: bool
    train_on_val: bool
    splits: Path | None
    size: Annotated[int, Field(ge=16, le=10**4)]
    images_a_class: Annotated[int, Field(ge=2)] | None
    domains: Domains
    domain_power: Share


class Texts(Section):
    body: str
    root: Path
    meta_train: Annotated[list[str], Field(min_length=1)]
    meta_val: Annotated[list[str], Field(min_length=1)]
    meta_test: Annotated[list[str], Field(min_length=1)]
    most: Annotated[int, Field(ge=4)]
    length: Annotated[int, Field(ge=8)]
    layers: Count | None
    share: Annotated[float, Field(gt=0, le=1)]
    fitted: Count
    pairs: Annotated[int, Field(ge=10, le=10**6)] | None


class Augment(Section):
    max_rotation: Annotated[float, Field(ge=0, le=180)]
    max_shift: Share
    max_scale: Annotated[float, Field(ge=0, lt=1)]
    max_shear: Share


class Body(Section):
    name: Annotated[str, Field(pattern=r"^(conv4|resnet12|timm/.+)$")]
    weights: Path | None
    image_size: Annotated[int, Field(ge=16, le=10**4)] | None
    filters: AtATime
    transforms: Transforms
    steps: Count
    classes_a_batch: Annotated[int, Field(ge=2, le=10**6)]
    images_a_class: Annotated[int, Field(ge=2, le=10**6)]
    lr: Positive
    weight_decay: NonNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "float32", "bfloat16"]
    augment: Augment


class Names(Section):
    encoder: str | None
    prompts: str
    descriptions: Path | None
    learn_from: Literal["images", "classifier", "both"]
    classes: Path | None
    classifier: Path | None


class Tasks(Section):
    n_way: Annotated[int, Field(ge=2, le=10**6)]
    n_shot: Count
    n_query: Count
    train_n_way: Annotated[int, Field(ge=2, le=10**6)] | None
    transforms: Transforms
    val_transforms: Transforms
    meta_train: Count
    meta_val: Count
    meta_test: Count
    views: Annotated[int, Field(ge=0, le=10**4)]
    names: Names
    augment: Augment


class Scenario(Section):
    name: Literal["few_shot", "domains", "zero_shot", "adapters"]


class JointInitialization(Section):
    steps: Count
    inputs: Annotated[int, Field(ge=2)]
    lr: Positive
    of: Annotated[list[Literal["labels", "pairs", "both"] | Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Learner(Section):
    name: Literal["two_layer_head", "linear_head", "lora"]
    hidden: Count
    normalise: Literal["none", "unit", "centred", "auto"]
    projection: Count | None
    rank: AtATime
    alpha: Positive
    modules: Annotated[list[str], Field(min_length=1)]
    selection_tasks: Count
    joint: JointInitialization


class Trajectories(Section):
    initialization: Literal[
        "fresh",
        "shared",
        "joint",
        "prototype",
        "ridge",
        "adaptive_ridge",
        "closed_form",
        "from_names",
        "softmax_rows",
        "text_ridge",
        "kernel_ridge",
    ]
    output_scale: NonNegative
    fit_on: Literal["class", "support", "rows"]
    augment: bool
    optimizer: Literal["sgd", "adam"]
    lr: Positive
    steps: Count
    length: Annotated[int, Field(ge=2, le=10**6)]
    sam: NonNegative
    precision: Literal["auto", "float32", "bfloat16"]
    shard_size: Count
    max_dropped: Share


class Method(Section):
    name: str
    baselines: list[str]


class Diffusion(Section):
    steps: Annotated[int, Field(ge=1, le=10**4)]
    schedule: Literal["cosine", "linear"]
    min_alpha_bar: Annotated[float, Field(ge=0, lt=1)]
    prediction: Literal["epsilon", "weights", "residual", "v"]
    max_beta: Annotated[float, Field(ge=1e-6, lt=1)]
    weighting: Literal["theorem", "weights"]
    on_policy: Share
    chain_noise: NonNegative
    start_noise: NonNegative
    noise: Literal["gaussian", "initialization"]
    final_share: Share
    sampler: Literal["ddpm", "ddim"]
    scaled_joins: bool
    gradient_input: bool


class Denoiser(Section):
    name: Literal["transformer", "unet"]
    width: AtATime
    depth: AtATime
    heads: AtATime
    neurons_a_token: AtATime
    condition: Literal["mean", "attention"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    skip: bool
    linear_map: bool


class Meta(Section):
    steps: Count
    n_way: Annotated[int, Field(ge=2, le=10**6)]
    min_shot: AtATime
    max_shot: AtATime
    new_tasks: Annotated[int, Field(ge=0, le=10**6)]
    recorded_tasks: Annotated[int, Field(ge=0, le=10**6)]
    streamed_tasks: Annotated[int, Field(ge=0, le=10**6)]
    uses_per_trajectory: AtATime
    inner_steps: AtATime
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive
    outer_lr: Positive
    lr_schedule: Literal["cosine", "constant"]
    ema: Annotated[float, Field(ge=0, lt=1)]
    weight_loss: NonNegative
    query_loss: NonNegative
    query_images: AtATime
    val_every: Count
    refit: bool


class Generate(Section):
    heads: Annotated[int, Field(ge=1, le=1000)]
    adapt_steps: Annotated[int, Field(ge=0, le=10**4)]
    adapt_lr: Positive
    timing_repeats: AtATime
    chains: AtATime


class Evaluate(Section):
    task: Annotated[int, Field(ge=0)]
    landscape_points: Annotated[int, Field(ge=5, le=1000)]


SECTIONS: dict[str, Any] = {
    "seed": Seed,
    "scenario": Scenario,
    "data": Data,
    "texts": Texts,
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
