"""The hyperparameters that are a method's own, the section ``methods`` of params.yaml.

It says what is allowed and decides no result, so that no stage depends on it: a new method leaves the others' results
alone.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Count = Annotated[int, Field(ge=1, le=10**9)]
AtATime = Annotated[int, Field(ge=1, le=10**6)]
"""Of what is held in memory together, and of what is repeated without a word in between."""
Positive = Annotated[float, Field(gt=0, le=1e30)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
"""Rates and coefficients, such as float32 holds with something to spare."""
Share = Annotated[float, Field(ge=0, le=1)]


def _number(value: Any) -> Any:
    """YAML's true is 1 for Python, and is no number that anybody meant."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted, and not true or false")
    return value


Seed = Annotated[int, BeforeValidator(_number), Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return value if cls.model_fields[info.field_name].annotation is bool else _number(value)


class NoKnobs(Section):
    """A method whose hyperparameters are those of the common sections, or that chooses its own on meta-val."""


class Reptile(Section):
    tasks_a_batch: Count
    inner_steps: Count
    adapt_steps: Annotated[int, Field(ge=0)]
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive
    inner_images: Count


class ReptileHead(Section):
    tasks_a_batch: Count
    train_shots: Count
    inner_steps: Count
    adapt_steps: Annotated[int, Field(ge=0)]
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive
    inner_images: Count


class ReptileNames(Section):
    inner_steps: Count
    inner_optimizer: Literal["sgd", "adam"]
    inner_lr: Positive


class MetaBaselineNames(Section):
    classify: Share
    temperature: Positive


class MetaBaseline(Section):
    classify: Share
    images_a_batch: Annotated[int, Field(ge=2)]
    tasks_a_batch: Count
    temperature: Positive


class MetaHypernetwork(Section):
    adapt_steps: Annotated[int, Field(ge=0)]
    adapt_lr: Positive


class Ocd(Section):
    scale_width: Count


class Ghn3(Section):
    width: Count
    depth: Count
    heads: Count
    block: Count


class MetaDiff(Section):
    diffusion_steps: Count
    sampling_steps: Count
    classifier: Literal["distance", "cosine"]
    width: Count


class LloVae(Section):
    latent: Count
    beta: NonNegative
    temperature: NonNegative


class WeightFlow(Section):
    steps: Count
    noise: NonNegative
    on_policy: Share


class Icis(Section):
    width: Count
    classes_a_batch: Count


class Methods(Section):
    """The hyperparameters that are a method's own."""

    ltdi: NoKnobs
    lvdi: NoKnobs
    mcdi: NoKnobs
    naive_local: NoKnobs
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
    prototype: NoKnobs
    ridge: NoKnobs
    adaptive_ridge: NoKnobs
    head_sgd: NoKnobs
    prototype_sgd: NoKnobs
    mean_head: NoKnobs
    nearest_head: NoKnobs
    weight_regression: NoKnobs
    nearest_unit: NoKnobs
    simpleshot: NoKnobs
    logistic: NoKnobs
    lda: NoKnobs
    nearest_name: NoKnobs
    softmax_rows: NoKnobs
    kernel_ridge: NoKnobs
    text_ridge: NoKnobs
    eszsl: NoKnobs
    conse: NoKnobs
