"""The schema of every artefact: what a stage hands to the next, and what users keep."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from ltdi.store import Facts, Schema

SPLITS = ("meta_train", "meta_val", "meta_test")
FEWEST_CLASSES = 2
"""The fewest that there is anything to tell apart of."""

Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_LETTERS = 10_000
"""Of a name."""
Name = Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)]


class Named(Facts):
    name: Name


class OfLearner(Named):
    """What the learners' ``facts`` are, each as far as it has them."""

    n_features: Count = 1
    n_numbers: Count | None = None
    hidden: Count = 1
    floor: Number = 0.0


BODY = Schema("body", Named, {}, finite=True)
OWN_BODY = replace(BODY, heal="name another file with body.weights, or null to train a body")
"""That a user brings: it is no stage's, which could make it again."""


class OfFeatures(Facts):
    data_set: Name
    size: Count
    scale: Size
    train_classes: Count


FEATURES = Schema(
    "features",
    OfFeatures,
    {split: f"float {split}_rows F" for split in SPLITS}
    | {f"{split}/counts": f"integer {split}_classes" for split in SPLITS},
    finite=True,
)
IMAGES = Schema("images", Facts, {split: f"byte {split}_rows channels height width" for split in SPLITS})


class OfExamples(Facts):
    reading: dict[str, Any]
    apart: list[str]
    length: Count


EXAMPLES = Schema(
    "examples",
    OfExamples,
    # hidden states, or numbers of tokens
    {f"{split}/hidden": f"number {split}_rows {split}_length H" for split in SPLITS}
    | {f"{split}/embedding": f"float {split}_rows C" for split in SPLITS},
    finite=True,
)
TASKS = Schema("tasks", columns={"split": "text", "support": "list", "query": "list"})


class OfScenario(Facts):
    scenario: Name
    source: Name
    provides: list[str]
    collection: dict[str, Any]


class OfInitialization(Facts):
    initialization: Name
    learner: OfLearner
    facts: OfScenario


INITIALIZATION = Schema("initialization", OfInitialization, {"initialization/shared": "float D"}, finite=True)
# what diverged is kept, and left out by the index
TRAJECTORIES = Schema("trajectories", Facts, {"points": "float M P D", "losses": "float M P", "scores": "float M P"})
INDEX = Schema(
    "index",
    columns={"split": "text", "task": "integer", "shard": "text", "row": "integer", "kept": "truth"},
    key=("split", "task"),
)


class OfSetup(Facts):
    meta: dict[str, Any]
    diffusion: dict[str, Any]
    denoiser: dict[str, Any]
    length: Count
    n_way: Count
    n_shot: Annotated[int, Field(ge=0)]
    provides: list[str]


class OfMethod(Facts):
    initialization: Name
    learner: OfLearner
    setup: OfSetup
    own: dict[str, Any]


METHOD = Schema("method", OfMethod, finite=True)


class Names(Facts):
    method: Name
    baselines: list[Name]


NAMES = Schema("names", Names)


class OfWeights(Facts):
    first: Annotated[int, Field(ge=0)]


WEIGHTS = Schema("weights", OfWeights, {"*": "float …"}, finite=True)
CHAIN = Schema("chain", Facts, {"states": "float T M D"}, finite=True)
TIMING = Schema(
    "timing",
    columns={"name": "text", "batch": "integer", "adapts": "truth"}
    | dict.fromkeys(("ms_embed", "ms_generate", "ms_query"), "number"),
    key=("name", "batch"),
)
PER_TASK = Schema(
    "per_task",
    columns={"method": "text", "task": "integer", "score": "number", "weight_mse": "number or none"},
    key=("method", "task"),
)


class Mean(Facts):
    score: Number
    ci95: Number


class Results(Mean):
    method: Name
    scored_by: Name
    ms_per_task: dict[str, Number]
    ceiling: Mean
    baselines: dict[str, Mean] = {}
    way: dict[str, dict[str, Number]]


RESULTS = Schema("metrics", Results)


class OfHead(Facts):
    classes: Annotated[list[Name], Field(min_length=FEWEST_CLASSES)]
    shots: list[Annotated[int, Field(ge=0, le=10**9)]]
    method: Name
    seed: int = 0
    generator: str = ""
    learner: OfLearner
    features: Name
    model: str = ""
    temperature: Size = 1.0


HEAD = Schema(
    "head",
    OfHead,
    {"*": "float …"},
    heal="generate it again from its images, or name another file",
    instead="name a folder that holds a folder of images for each class (a zip's, unpacked), or a head that was kept",
    finite=True,
)


class OfBackbone(Named):
    digest: Name
    package: str = ""


class OfImages(Facts):
    data_set: Name
    mode: Name
    size: Count
    scale: Size


class OfModel(Facts):
    format: Count
    name: Name
    method: Name
    baselines: list[Name]
    scenario: OfScenario
    names: dict[str, Any]
    backbone: OfBackbone
    images: OfImages
    normalization: str


REPACK = "pack it again with `ltdi pack`, or install the package again"
MODEL = Schema("model", OfModel, heal=REPACK)
FEATURE_MAP = Schema("feature_map", Facts, {"*": "float …"}, heal=REPACK, finite=True)
