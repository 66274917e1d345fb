"""A generated head: weights for named classes, that answer, are scored, kept and exported."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.inference.class_names import check_names, different, named
from ltdi.inference.head_module import HeadModule
from ltdi.inference.user_images import Pictures, images_of, listed_of, readable
from ltdi.learners import LEARNERS, learner_of
from ltdi.learners.base import Classifier, Learner
from ltdi.store import read_tensors, write_tensors
from ltdi.store.schemas import HEAD
from ltdi.utils.console import progress
from ltdi.utils.errors import InputError, Remark, short

UNKNOWN = "unknown"
"""The class of images whose classes are all improbable, where that is asked for."""
ANSWERED_TOGETHER = 100
"""How many images are read before they are answered."""


@dataclass(frozen=True, eq=False)
class Head:
    """Weights that were generated for a task of named classes, from so many images of each (``shots``): ``w`` (1, D) of
    the ``learner``, on the run's features.

    ``support`` are the rows (K_n, F) of each class's images, and ``seed`` and ``generator``, a name of what the method
    has learned, what else they were generated from; ``again`` does so for rows of other classes by their names.
    """

    classes: tuple[str, ...]
    learner: Learner
    w: Tensor
    extractor: FeatureExtractor
    method: str
    shots: tuple[int, ...]
    support: tuple[Tensor, ...] = ()
    seed: int = 0
    generator: str = ""
    again: "Callable[[Mapping[str, Tensor]], Head] | None" = None
    model: str = ""
    """The name of the packed model that generated it; "" of a run."""
    temperature: float = 1.0
    """What logits are divided by before they are probabilities."""

    def __post_init__(self) -> None:
        check_names(self.classes)

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:5]) + (", …" if len(self.classes) > 5 else "")
        return f"Head({len(self.classes)} classes: {short(names)[1:-1]}; by {self.method}, {sum(self.shots)} images)"

    @torch.no_grad()
    def parts(
        self, pictures: Pictures, left_out: Callable[[str], object] | None = None
    ) -> Iterator[tuple[list[Any], Tensor]]:
        """Some images at a time, where they are or their numbers, and the probabilities (M, N) of their classes. That
        some are of one shade alone is remarked at the end.

        Raises:
            InputError: one cannot be read, and ``left_out`` is not there to be told why it is passed over.
        """
        listed, blank = listed_of(pictures, strict=left_out is None), []
        for first in range(0, len(listed), ANSWERED_TOGETHER):
            kept, images = readable(self.extractor, listed[first : first + ANSWERED_TOGETHER], first, left_out)
            if not kept:
                continue
            inputs = images if self.learner.from_images else self.extractor(images)
            logits = self.learner.logits(self.w, inputs[None])[0]  # type: ignore[attr-defined]
            answers = (logits if self.temperature == 1 else logits / self.temperature).softmax(-1).cpu()
            if not bool(answers.isfinite().all()):
                raise InputError(
                    f"the head for {', '.join(self.classes)} answers with no numbers; generate it again from its images"
                )
            places = [_place(listed[first + i], first + i) for i in kept]
            flat = images.flatten(1)
            blank += [places[i] for i in (flat.amin(1) == flat.amax(1)).nonzero().flatten().tolist()]
            yield places, answers
        if blank:
            told = f"{len(blank)} of the images are of one shade alone, e.g. {blank[0]}; what is answered says nothing"
            warnings.warn(told, Remark, stacklevel=2)

    def probabilities(self, pictures: Pictures) -> Tensor:
        """(M, N)"""
        listed, found = listed_of(pictures), [torch.empty(0, len(self.classes))]
        with progress(len(listed), "images are classified") as done:
            for _, answers in self.parts(listed):
                found.append(answers)
                done(sum(map(len, found)))
        return torch.cat(found)

    def tables(
        self,
        pictures: Pictures,
        left_out: Callable[[str], object] | None = None,
        *,
        every: bool = False,
        top: int = 1,
        unknown: float = 0.0,
    ) -> Iterator[pd.DataFrame]:
        """``parts`` as tables: a row an image: where it is, the class, and how probable that is; with ``top`` = k also
        the next ones to the k-th, ``class 2``, ``probability 2`` …; with ``every`` also how probable each class is,
        ``p(<class>)``. An image whose most probable class is less probable than ``unknown`` is of class "unknown".

        Raises:
            InputError: ``top`` is not from 1 to the number of classes, ``unknown`` not from 0 to 1, or a class has that
                name.
        """
        if not 0 <= unknown <= 1 or (unknown and UNKNOWN in self.classes):
            raise InputError(
                f"unknown = {unknown}: give a probability from 0 to 1, where no class is named {UNKNOWN!r}"
            )
        if not 1 <= top <= len(self.classes):
            raise InputError(f"top = {top}: the head has {len(self.classes)} classes; give 1 to {len(self.classes)}")
        for places, answers in self.parts(pictures, left_out):
            shares, labels = answers.sort(dim=-1, descending=True, stable=True)
            share, label = shares[:, 0], labels[:, 0]
            # as objects: names of files are bytes, and those that are no text fit into no column of text
            columns = {
                "image": pd.Series(places, dtype=object),
                "class": pd.Series(
                    [self.classes[i] if p >= unknown else UNKNOWN for i, p in zip(label.tolist(), share.tolist())],
                    dtype=object,
                ),
                "probability": share.numpy(),
            }
            for k in range(1, top):
                names = [self.classes[each] for each in labels[:, k].tolist()]
                columns[f"class {k + 1}"] = pd.Series(names, dtype=object)
                columns[f"probability {k + 1}"] = shares[:, k].numpy()
            columns |= {f"p({name})": answers[:, n].numpy() for n, name in enumerate(self.classes) if every}
            yield pd.DataFrame(columns)

    def classify(self, pictures: Pictures, *, top: int = 1, unknown: float = 0.0) -> pd.DataFrame:
        """A row an image: where it is, the class, and how probable that is; with ``top`` = k also the next ones to the
        k-th; of class "unknown" where none is as probable as ``unknown``."""
        found = list(self.tables(pictures, top=top, unknown=unknown))
        if not found:
            return pd.DataFrame({name: [] for name in ("image", "class", "probability")})
        return pd.concat(found, ignore_index=True)

    def score(self, folder: str | Path) -> float:
        """The share of the images in a folder of class folders that are classified rightly.

        Raises:
            InputError: no image lies in a folder named like a class.
        """
        answers = self.classify(folder)
        right, of = rightly(answers, self.classes, [folder])
        if not of:
            raise InputError(f"{folder}: no image lies in a folder named like a class ({', '.join(self.classes)})")
        return right / of

    def with_class(self, name: str, pictures: Pictures) -> "Head":
        """A head with one class more, from that class's images alone: what its own classes looked like is kept as rows
        of features, and all are generated together again, as if the class had been there from the start.

        Raises:
            InputError: the class is there, there is no image, or nothing is kept to generate from.
        """
        (name,) = named([name])
        if name in self.classes:
            raise InputError(f"class {name!r} is there already; choose another name")
        return self.with_images({name: pictures})

    def with_images(self, classes: Mapping[str, Pictures]) -> "Head":
        """A head with further images of its classes and with further classes, from these images alone: all are
        generated together again, as if the images had been there from the start.

        Raises:
            InputError: a class has no image, or nothing is kept to generate from.
        """
        if not self.support or self.again is None:
            raise InputError(
                f"this head of {self.method} holds no features of its classes, so none can join them; generate it from"
                " the images of all"
            )
        further = dict(zip(named(classes), classes.values()))
        check_names((*self.classes, *(name for name in further if name not in self.classes)))
        rows = dict(zip(self.classes, self.support, strict=True))
        for name, pictures in further.items():
            new = self.extractor(images_of(self.extractor, listed_of(pictures)))
            rows[name] = torch.cat([rows[name], new]) if name in rows else new
        return self.again(rows)

    @property
    def is_kept_by_itself(self) -> bool:
        """Whether it is weights on the run's features alone, and no network of its own."""
        return self.learner.facts()["name"] in LEARNERS

    def state_dict(self) -> dict[str, Tensor]:
        """The weights as tensors by name, of one task."""
        return {name: value[0].cpu().clone() for name, value in self.learner.space.unflatten(self.w).items()}

    def to_module(self) -> HeadModule:
        """The head with its backbone as a torch module: images in, logits out.

        Raises:
            InputError: the method makes more than a head.
        """
        if not self.is_kept_by_itself:
            raise InputError(f"{self.method} makes more than a head, of which no program is made; name another method")
        return HeadModule(self.learner, self.w, self.extractor, self.temperature)

    @classmethod
    def read(cls, file: Path, extractor: FeatureExtractor) -> "Head":
        """A head that ``save`` kept.

        Raises:
            InputError: it is none, or was made for other features.
        """
        tensors, facts = _read(file)
        if facts["features"] != extractor.name:
            by = f" by the model {facts['model']!r}" if facts["model"] else ""
            raise InputError(f"{file} was generated for another body{by}; generate it again from its images")
        with HEAD.interpreting(file):
            learner = learner_of(facts["learner"])
        _check(file, facts, learner, tensors)
        classes, shots = tuple(facts["classes"]), tuple(facts["shots"])
        w = learner.space.flatten(tensors)[None].to(extractor.device)
        support = tensors["support"].to(extractor.device).split(shots) if "support" in tensors else ()
        made = (facts["method"], shots, support, facts.get("seed", 0), facts.get("generator", ""))
        try:
            return cls(
                classes, learner, w, extractor, *made, model=facts["model"], temperature=facts["temperature"]
            )  # fmt: skip
        except InputError as error:
            raise HEAD.refuse(file, str(error)) from error

    def save(self, file: str | Path, **further: Any) -> None:
        """Keep it, and the features of the images that it was generated from, to be read again by ``read``; with
        ``further`` plain values by name.

        Raises:
            InputError: the method makes more than a head.
        """
        if not self.is_kept_by_itself:
            raise InputError(f"{file}: {self.method} makes more than a head, which cannot be kept; name another method")
        facts = {
            "classes": list(self.classes),
            "shots": list(self.shots),
            "method": self.method,
            "seed": self.seed,
            "generator": self.generator,
            "learner": self.learner.facts(),
            "features": self.extractor.name,
            "model": self.model,
            "temperature": self.temperature,
            **further,
        }
        # what would not be read again is not written
        HEAD.check_facts(Path(file), facts)
        support = {"support": torch.cat(self.support)} if self.support else {}
        write_tensors(file, self.state_dict() | support, facts, kind="head")


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Raises:
        InputError: the file is no head that was kept.
    """
    if not file.is_file():
        raise InputError(
            f"{file}: no such folder or file; name a folder that holds a folder of images for each class, or a head"
            " that was kept"
        )
    tensors, facts = read_tensors(file, kind=HEAD)
    return tensors, {"model": "", "temperature": 1.0, **facts}


def facts_of_head(file: Path) -> dict[str, Any]:
    """What a kept head says of itself.

    Raises:
        InputError: the file is none.
    """
    return _read(file)[1]


def _check(file: Path, facts: Mapping[str, Any], learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """What a kept head says of itself, against its tensors.

    Raises:
        InputError: they do not fit together.
    """
    classes, shots = facts["classes"], facts["shots"]
    if different(classes) < len(classes) or len(shots) != len(classes):
        raise HEAD.refuse(file, f"{len(classes)} classes, {different(classes)} different, and images of {len(shots)}")
    if not isinstance(learner, Classifier):
        raise HEAD.refuse(file, f"weights of {learner.facts()['name']}, which classify no images")
    expected = {
        name: " ".join(["float32", *(str(len(classes) if size is None else size) for size in shape)])
        for name, shape in learner.space.shapes.items()
    }
    if "support" in tensors:
        expected["support"] = f"float32 {sum(shots)} {learner.n_numbers}"
    if more := sorted(tensors.keys() - expected.keys()):
        raise HEAD.refuse(file, f"{more[0]} is not a tensor of this head")
    replace(HEAD, tensors=expected).check_tensors(file, tensors)


def _place(picture: Any, number: int) -> str | int:
    return str(picture) if isinstance(picture, str | Path) or hasattr(picture, "at") else number


def rightly(answers: pd.DataFrame, classes: Sequence[str], folders: Iterable[str | Path] = ()) -> tuple[int, int]:
    """How many answers are right, of how many whose file lies in a folder named like a class, or below one within the
    ``folders`` that were named: the nearest counts."""
    roots, told = [Path(each) for each in folders], []
    for image, answer in zip(answers["image"], answers["class"]):
        place = Path(str(image))
        within = [each for root in roots if place.is_relative_to(root) for each in place.relative_to(root).parents]
        above = (place.parent.name, *(each.name for each in within))
        told += [(name, answer) for name in above if name in classes][:1]
    return sum(name == answer for name, answer in told), len(told)
