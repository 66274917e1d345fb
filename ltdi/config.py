"""params.yaml as types: the only declaration of every hyperparameter and of its range."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Count = Annotated[int, Field(ge=1, le=10**9)]
AtATime = Annotated[int, Field(ge=1, le=10**6)]
"""A number of things that are held in memory together."""
Positive = Annotated[float, Field(gt=0, le=1e30)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
"""A rate or a coefficient."""
Share = Annotated[float, Field(ge=0, le=1)]


def _number(value: Any) -> Any:
    """Refuse true and false, which Python counts as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted, and not true or false")
    return value


Seed = Annotated[int, BeforeValidator(_number), Field(ge=0)]


class Section(BaseModel):
    """A section of params.yaml: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return value if cls.model_fields[info.field_name].annotation is bool else _number(value)


Transforms = Literal["none", "rotations", "mirrored", "dihedral"]


class Domains(Section):
    """Domains of each split."""

    train: list[str]
    val: list[str]
    test: list[str]


class Data(Section):
    """The data set of images."""

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
    """The data sets of texts."""

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
    """Ranges of random affine augmentation."""

    max_rotation: Annotated[float, Field(ge=0, le=180)]
    max_shift: Share
    max_scale: Annotated[float, Field(ge=0, lt=1)]
    max_shear: Share


class Body(Section):
    """The backbone and its pretraining."""

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
    """Class names, of the scenario zero_shot."""

    encoder: str | None
    prompts: str
    descriptions: Path | None
    learn_from: Literal["images", "classifier", "both"]
    classes: Path | None
    classifier: Path | None


class Tasks(Section):
    """Sizes and numbers of tasks."""

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
    """The kind of tasks."""

    name: Literal["few_shot", "domains", "zero_shot", "adapters"]


class JointInitialization(Section):
    """Training of one adapter for all tasks."""

    steps: Count
    inputs: Annotated[int, Field(ge=2)]
    lr: Positive
    of: Annotated[list[Literal["labels", "pairs", "both"] | Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Learner(Section):
    """What weights are generated of."""

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
    """Weight preparation (Algorithm 1)."""

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
    """The generator and the baselines beside it."""

    name: str
    baselines: list[str]


class Diffusion(Section):
    """Hyperparameters of a diffusion.

    ``steps`` T; the ``schedule``, its largest β and the ᾱ_T that it ends at or above; what the denoiser's output
    predicts (``prediction``); how the loss weighs times; the share ``on_policy`` of tasks whose states are those that
    the sampler visits; ``chain_noise``, the size of the sampler's noise, and ``start_noise``, of x_T; ``noise``, the
    law of ε and x_T: "gaussian" or a recorded "initialization"; ``final_share`` of the drawn times at T; the
    ``sampler``, and whether states are scaled where sub-chains join; whether the denoiser sees the gradient on the
    support set.
    """

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
    """Hyperparameters of the denoising network."""

    name: Literal["transformer", "unet"]
    width: AtATime
    depth: AtATime
    heads: AtATime
    neurons_a_token: AtATime
    condition: Literal["mean", "attention"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    skip: bool
    linear_map: bool


class MetaTraining(Section):
    """What a method reads of the section ``meta``.

    ``recorded_tasks`` and ``new_tasks``: how many of each in a step; ``n_way``: classes of a new task (all, where there
    are fewer); ``min_shot``, ``max_shot``: bounds of its images a class, drawn at every step; ``query_images``: a
    class. ``query_loss`` is the coefficient of the loss on the query set, ``weight_loss`` that of the distance to the
    trained weights, in which recorded tasks alone count. ``inner_*`` are REPTILE's inner loop.
    """

    n_way: AtATime
    min_shot: AtATime
    max_shot: AtATime
    new_tasks: Annotated[int, Field(ge=0, le=10**6)]
    recorded_tasks: Annotated[int, Field(ge=0, le=10**6)]
    streamed_tasks: Annotated[int, Field(ge=0, le=10**6)]
    uses_per_trajectory: AtATime
    inner_steps: AtATime
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive
    weight_loss: NonNegative
    query_loss: NonNegative
    query_images: AtATime


class Meta(MetaTraining):
    """Meta-training: tasks, losses and optimization."""

    n_way: Annotated[int, Field(ge=2, le=10**6)]
    steps: Count
    outer_lr: Positive
    lr_schedule: Literal["cosine", "constant"]
    ema: Annotated[float, Field(ge=0, lt=1)]
    val_every: Count
    refit: bool

    @property
    def training(self) -> MetaTraining:
        """The part that methods read."""
        return MetaTraining(**self.model_dump(include=set(MetaTraining.model_fields)))


class Generate(Section):
    """Generation of the weights of meta-test tasks."""

    heads: Annotated[int, Field(ge=1, le=1000)]
    adapt_steps: Annotated[int, Field(ge=0, le=10**4)]
    adapt_lr: Positive
    timing_repeats: AtATime
    chains: AtATime


class Evaluate(Section):
    """Evaluation on meta-test tasks."""

    task: Annotated[int, Field(ge=0)]
    landscape_points: Annotated[int, Field(ge=5, le=1000)]


class NoHyperparameters(Section):
    """A method without hyperparameters of its own, or that chooses them on meta-val."""


class ReptileNames(Section):
    """REPTILE on class names."""

    inner_steps: Count
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive


class Reptile(ReptileNames):
    """REPTILE on the whole network."""

    tasks_a_batch: Count
    adapt_steps: Annotated[int, Field(ge=0)]
    inner_images: Count


class ReptileHead(Reptile):
    """REPTILE on the head."""

    train_shots: Count


class MetaBaselineNames(Section):
    """Meta-Baseline on class names."""

    classify: Share
    temperature: Positive


class MetaBaseline(MetaBaselineNames):
    """Meta-Baseline."""

    images_a_batch: Annotated[int, Field(ge=2)]
    tasks_a_batch: Count


class MetaHypernetwork(Section):
    """Meta-HyperNetwork."""

    adapt_steps: Annotated[int, Field(ge=0)]
    adapt_lr: Positive


class Ocd(Section):
    """OCD."""

    scale_width: Count


class Ghn3(Section):
    """GHN-3."""

    width: Count
    depth: Count
    heads: Count
    block: Count


class MetaDiff(Section):
    """MetaDiff."""

    diffusion_steps: Count
    sampling_steps: Count
    classifier: Literal["distance", "cosine"]
    width: Count


class LloVae(Section):
    """LLO-VAE."""

    latent: Count
    beta: NonNegative
    temperature: NonNegative


class WeightFlow(Section):
    """Flow matching on trajectories."""

    steps: Count
    noise: NonNegative
    on_policy: Share


class Icis(Section):
    """ICIS."""

    width: Count
    classes_a_batch: Count


class Methods(Section):
    """Hyperparameters of one method each, by its name."""

    ltdi: NoHyperparameters
    lvdi: NoHyperparameters
    mcdi: NoHyperparameters
    naive_local: NoHyperparameters
    reptile: Reptile
    reptile_head: ReptileHead
    reptile_names: ReptileNames
    meta_baseline: MetaBaseline
    meta_baseline_names: MetaBaselineNames
    meta_hypernetwork: MetaHypernetwork
    ocd: Ocd
    ghn3: Ghn3
    metadiff: MetaDiff
    llo_vae: LloVae
    weight_flow: WeightFlow
    icis: Icis
    prototype: NoHyperparameters
    ridge: NoHyperparameters
    adaptive_ridge: NoHyperparameters
    head_sgd: NoHyperparameters
    prototype_sgd: NoHyperparameters
    mean_head: NoHyperparameters
    nearest_head: NoHyperparameters
    weight_regression: NoHyperparameters
    nearest_unit: NoHyperparameters
    simpleshot: NoHyperparameters
    logistic: NoHyperparameters
    lda: NoHyperparameters
    nearest_name: NoHyperparameters
    softmax_rows: NoHyperparameters
    kernel_ridge: NoHyperparameters
    text_ridge: NoHyperparameters
    eszsl: NoHyperparameters
    conse: NoHyperparameters


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
