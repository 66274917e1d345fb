"""Which initialization a run has, its learner, and how features are normalized: chosen on meta-val tasks."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ltdi.initialization import INITIALIZATIONS, Initialization, initialization_of_kind
from ltdi.initialization.adapter_candidates import candidates
from ltdi.initialization.base import shared_draw
from ltdi.initialization.closed_form import ClosedForm
from ltdi.initialization.from_names import FromNames
from ltdi.initialization.joint_adapter import Joint, best_joint
from ltdi.learners import LinearHead, Lora, TwoLayerHead
from ltdi.learners.base import Learner
from ltdi.meta_learning.model_selection import scores_on_new_tasks, select_if_significant
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.tasks.feature_normalization import NORMALISATIONS, FeatureMap
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.tasks.text_tasks import TextTasks
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

CLOSED_FORMS = ("prototype", "ridge")
"""``trajectories.initialization = closed_form`` is the first of these, or another that is ahead of it."""
FROM_NAMES = ("softmax_rows", "text_ridge", "kernel_ridge")
"""The same of ``trajectories.initialization = from_names``."""
OF_ADAPTERS = ("shared", "joint", "fresh")
IMAGE_TASKS, NAME_TASKS = 2000, 200
"""How many new meta-val tasks initializations are compared on."""


def of_images(
    train: ClassTasks,
    val: ClassTasks,
    learner: Mapping[str, Any],
    kind: str,
    *,
    seed: int,
    output_scale: float = 1.0,
) -> tuple[Initialization, FeatureMap]:
    """Select initialization and normalization for tasks of labelled images.

    Of the closed forms, and of the normalisations of features where ``learner.normalise`` is auto, the first, or the
    best of the others where its accuracy on new meta-val tasks is ahead of the first's. Cross-entropy would not do:
    where nearly every query is right, the lower one can go with the more mistakes.
    """
    normalise, projection = learner["normalise"], learner["projection"]
    maps = [
        FeatureMap.fit(train.of.features[: train.of.n_rows], normalise=each, projection=projection)
        for each in (NORMALISATIONS if normalise == "auto" else (normalise,))
    ]
    kinds = CLOSED_FORMS if kind == "closed_form" else (kind,)
    judged = (
        kinds if issubclass(INITIALIZATIONS[kinds[0]], ClosedForm) else CLOSED_FORMS[:1] if len(maps) > 1 else kinds
    )
    candidates = []
    for seen in maps:
        mapped = _head(learner, seen, train.of)
        shared = shared_draw(mapped, val.n_way, seed, output_scale).to(val.of.features.device)
        candidates += [
            (_calibrated(initialization_of_kind(each, mapped, shared, output_scale), val.through(seen)), seen)
            for each in judged
        ]

    def accuracies(candidate: tuple[Initialization, FeatureMap]) -> Tensor:
        return accuracies_of(candidate[0], val.through(candidate[1]), n_tasks=IMAGE_TASKS, seed=seed)

    initialization, seen = select_if_significant(candidates, accuracies)
    if initialization.kind not in kinds:
        initialization = initialization_of_kind(kind, initialization.learner, initialization.shared, output_scale)
    return initialization, seen


def _head(learner: Mapping[str, Any], seen: FeatureMap, of: Classes, n_numbers: int | None = None) -> Learner:
    """Build the head that the section ``learner`` of params.yaml names, on normalized features.

    Args:
        learner: the section.
        seen: normalization of the features.
        of: meta-training classes, whose features bound the hidden units' inputs.
        n_numbers: C of a row of a task's context; None for the features' own.
    """
    if learner["name"] == "linear_head":
        return LinearHead(seen.width, n_numbers)
    return TwoLayerHead(seen.width, learner["hidden"], seen.floor(of.features[: of.n_rows]), n_numbers)


def _calibrated(initialization: Initialization, val: ClassTasks) -> Initialization:
    return initialization.calibrated(val) if isinstance(initialization, ClosedForm) else initialization


def accuracies_of(initialization: Initialization, val: ClassTasks, *, n_tasks: int, seed: int) -> Tensor:
    """Score an initialization on new meta-val tasks (n_tasks,), the same tasks for every initialization."""
    stream = generator(seed, "start")
    return scores_on_new_tasks(
        initialization.learner, val, lambda c: [initialization.centre(c)], n_tasks=n_tasks, stream=stream
    )[0]


def of_names(
    train: NamedClassTasks,
    val: NamedClassTasks,
    learner: Mapping[str, Any],
    kind: str,
    *,
    seed: int,
    output_scale: float = 1.0,
) -> tuple[Initialization, FeatureMap]:
    """Select initialization and normalization for tasks of class names.

    Of ``FROM_NAMES``, and of the normalizations of features where ``learner.normalise`` is auto, the first, or the best
    of the others where its accuracy on new meta-val tasks is ahead of the first's.
    """
    if kind not in ("from_names", *FROM_NAMES, "shared", "fresh"):
        raise InputError(
            f"trajectories.initialization = {kind} is made of labelled examples, which tasks of names do not have;"
            f" allowed: from_names, {', '.join(FROM_NAMES)}, shared, fresh"
        )
    normalise, kinds = learner["normalise"], FROM_NAMES if kind == "from_names" else (kind,)
    candidates, n_numbers = [], train.of.texts.shape[1]
    for each in reversed(NORMALISATIONS) if normalise == "auto" else (normalise,):
        rows = train.of.features[: train.of.n_rows]
        seen = FeatureMap.fit(rows, normalise=each, projection=learner["projection"])
        through = train.through(seen), val.through(seen)
        candidates += [
            (_initialization(name, _head(learner, seen, train.of, n_numbers), *through, seed, output_scale), seen)
            for name in kinds
        ]

    def accuracies(candidate: tuple[Initialization, FeatureMap]) -> Tensor:
        return accuracies_of(candidate[0], val.through(candidate[1]), n_tasks=NAME_TASKS, seed=seed)

    return select_if_significant(candidates, accuracies)


def _initialization(
    kind: str, learner: Learner, train: NamedClassTasks, val: NamedClassTasks, seed: int, output_scale: float
) -> Initialization:
    shared = shared_draw(learner, val.n_way, seed, output_scale).to(val.of.features.device)
    made = INITIALIZATIONS[kind]
    if not issubclass(made, FromNames):
        return initialization_of_kind(kind, learner, shared, output_scale)
    initialization = made(learner, shared, train.of.texts, train.of.means(), from_own=train.of.rows is not None)
    return initialization.calibrated(train, val)


def of_adapters(
    train: TextTasks,
    val: TextTasks,
    learner: Mapping[str, Any],
    kind: str,
    *,
    seed: int,
    output_scale: float = 1.0,
) -> tuple[Initialization, None]:
    """Select the initialization of LoRA adapters: one draw of A for all tasks, or one for each, B and the head zero; or
    one adapter trained on all meta-training data sets, chosen on meta-val with the shift of its bias."""
    if kind not in OF_ADAPTERS:
        raise InputError(
            f"trajectories.initialization = {kind} is none of an adapter; allowed: {', '.join(OF_ADAPTERS)}"
        )
    reading = train.reading
    hparams = {key: learner[key] for key in ("rank", "alpha", "modules", "selection_tasks")}
    lora = Lora(reading.body, **hparams, layers=reading.layers, digest=reading.digest)
    where = train.names.device
    shared = shared_draw(lora, lora.encoder.n_classes, seed).to(where)
    if kind != "joint":
        return initialization_of_kind(kind, lora, shared, output_scale), None
    found = candidates(lora, shared, train, seed, **learner["joint"])
    initializations = {name: Joint(lora, each) for name, each in found.items()}
    stream = generator(seed, "joint start's trust")
    return best_joint(initializations, val, n_tasks=lora.selection_tasks, stream=stream), None


SELECTIONS: dict[str, Callable[..., tuple[Initialization, FeatureMap | None]]] = {
    "classes": of_images,
    "domains": of_images,
    "from_names": of_names,
    "texts": of_adapters,
}
"""By the kind of tasks, ``Scenario.source``: (meta-training tasks, meta-val tasks, the section ``learner`` of
params.yaml, ``trajectories.initialization``) -> the initialization with its learner, and the normalization of
features."""
