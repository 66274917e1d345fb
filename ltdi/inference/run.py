"""A finished run as an object: read it back, generate weights for new tasks, answer, score, keep, export.

run = ltdi.load("data")
head = run.generate("my_classes")      # a folder that holds a folder of images for each class
head.classify("photographs")           # a table: image, class, probability
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.bodies.registry import read_body
from ltdi.bodies.sentence_encoder import embed_names, read_descriptions
from ltdi.inference.class_names import by_name, named
from ltdi.inference.head import Head
from ltdi.inference.run_info import info_of
from ltdi.inference.user_images import Pictures, context_of_unequal, embedded, images_by_class, listed_of
from ltdi.learners import LinearHead
from ltdi.methods.common.base import Method
from ltdi.methods.common.name_image_fusion import NameImageFusion
from ltdi.methods.storage import read_method
from ltdi.methods.transductive.self_training import SelfTraining
from ltdi.store import digest, read_tensors
from ltdi.store.schemas import FEATURES, METHOD
from ltdi.tasks.base import Context
from ltdi.tasks.transductive_tasks import knowing
from ltdi.trajectories.storage import load_initialization, load_sources, method_of_run, names
from ltdi.utils.devices import device, exact
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


class Run:
    """A finished run.

    Args:
        data: the folder that its stages wrote.
        method: the trained method, if no other of the run's methods and baselines is named.

    Raises:
        InputError: the folder holds no finished run, or not that method.
    """

    @exact()
    def __init__(self, data: str | Path = "data", *, method: str = "") -> None:
        self.data = Path(data)
        self.device = device()
        self.name = method_of_run(self.data, method)
        trained, baselines = names(self.data)
        self.names = (trained, *baselines)
        _, seen, self.facts = load_initialization(self.data, self.device)
        self.body: nn.Module = read_body(self.data / "body" / "body.safetensors")
        self.extractor = FeatureExtractor.of(self.data / "tasks", self.body, seen, self.device)
        self.method = self.read(self.name)

    def noise(self, seed: int = 0) -> torch.Generator:
        """What generation draws from: the same seed, the same weights."""
        return generator(seed, "noise")

    @exact()
    def context(self, classes: Mapping[str, Pictures]) -> Context:
        """What the images of some classes say of their task; a class may have more images than another."""
        by_class = list(images_by_class(self.extractor, classes).values())
        rows = self.extractor(torch.cat(by_class)).split([len(each) for each in by_class])
        return context_of_unequal(rows, by_class)

    @exact()
    @torch.no_grad()
    def generate(
        self, classes: str | Path | Mapping[str, Pictures], *, seed: int = 0, unlabelled: Pictures | None = None
    ) -> Head:
        """A head for classes that nobody has trained on, from a folder that holds a folder of images for each, or their
        images by name; and, where ``unlabelled`` ones are named that it is to classify, from these as well
        (``SelfTraining``), which helps where images of all classes are among them.

        Raises:
            InputError: fewer than two classes, a class without images, more or fewer classes than the method can do, or
                unlabelled images for a method that works on images.
        """
        by_class = by_name(classes)
        if len(by_class) < 2:
            raise InputError(f"{len(by_class)} classes; give two or more")
        if self.is_from_names:
            raise InputError(f"{self.data} generates heads from names; give them with --names, without images of them")
        context, method = self.context(by_class), self.method
        if unlabelled is not None:
            listed, method = listed_of(unlabelled), SelfTraining(method)
            if len(listed) < len(by_class):
                raise InputError(
                    f"--transductive learns from {len(listed)} images of {len(by_class)} classes, and some of each are"
                    " needed; leave it out, or name more"
                )
            context = knowing(context, embedded(self.extractor, listed)[None])
        return self._head(self.name, method, tuple(by_class), context, seed)

    @exact()
    def context_of_names(self, names: Sequence[str]) -> Context:
        """What the names of some classes say of their task."""
        hparams = self.naming
        told = read_descriptions(Path(hparams["descriptions"])) if hparams["descriptions"] else None
        texts = embed_names(hparams["encoder"], names, prompts=hparams["prompts"], descriptions=told)
        return Context(texts[None, :, None].to(self.device))

    @exact()
    def generate_from_names(self, names: Sequence[str], *, seed: int = 0) -> Head:
        """A head for classes of which nothing is known but their names.

        Raises:
            InputError: the run learned from images, fewer than two names, one twice, or more or fewer than the method
                can do.
        """
        if not self.is_from_names:
            raise InputError(
                f"{self.data} generates heads from images; name a folder of classes, or a run of scenario.name ="
                " zero_shot"
            )
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"names {', '.join(map(str, names))!r}: give two or more, all different")
        names = named(names)
        return self._head(self.name, self.method, names, self.context_of_names(names), seed)

    @exact()
    @torch.no_grad()
    def joined(self, made: Head, examples: str | Path | Mapping[str, Pictures], *, seed: int = 0) -> tuple[Head, str]:
        """A head of names, joined with a few images of some of its classes, by name or in a folder of a folder each;
        and what meta-val says of it. It joins as is best on meta-val tasks of as many classes and images.

        Raises:
            InputError: the head is of images already or not linear, or a class is none of its own.
        """
        if any(made.shots):
            raise InputError(
                "--examples are for a head of --names, and this one is of images; leave one of the two out"
            )
        by_class = by_name(examples, at_least=1)
        if strange := [name for name in by_class if name not in made.classes]:
            raise InputError(f"class {strange[0]!r} is not among the names {', '.join(made.classes)}; name it as well")
        if not isinstance(made.learner, LinearHead):
            raise InputError(
                f"names and images are joined in a linear head, and {self.data} generates"
                f" {made.learner.facts()['name']}; set learner.name = linear_head"
            )
        images = images_by_class(self.extractor, by_class)
        rows = [self.extractor(images[name]) if name in images else None for name in made.classes]
        sources = load_sources(self.data, splits=["meta_train", "meta_val"], device=self.device)
        joiner = NameImageFusion(
            made.learner, self.method, sources["meta_train"].of.means().mean(0), sources["meta_val"].of
        )
        w, told = joiner(made.w, rows, seed)
        shots = tuple(0 if each is None else len(each) for each in rows)
        joint = replace(made, w=w, shots=shots, method=f"{made.method} and the images", support=(), again=None)
        return joint, told

    @property
    def naming(self) -> dict[str, Any]:
        """How names are read; nothing where the run works on images."""
        facts = read_tensors(self.data / "tasks" / "features.safetensors", kind=FEATURES)[1]
        return dict(facts["names"]) if self.is_from_names else {}

    @property
    def is_from_names(self) -> bool:
        """Whether its heads are from names alone, and not from images."""
        return "examples" not in self.facts["provides"]

    def load_head(self, file: str | Path) -> Head:
        """A head that ``Head.save`` kept.

        Raises:
            InputError: it is none, or was made for other features.
        """
        kept = Head.read(Path(file), self.extractor)
        return replace(kept, again=partial(self._again, kept))

    def _head(self, name: str, method: Method, classes: tuple[str, ...], context: Context, seed: int) -> Head:
        known, generator_name = self.n_way(name), self._training(name)
        if method.fixed_n_way and context.n_way != known:
            raise InputError(
                f"{name} has learned heads of {known} classes, and generates none of {context.n_way}; set"
                f" tasks.n_way = {context.n_way} in params.yaml and run `dvc repro`, or choose another method"
            )
        w = method.generate(context, generator=self.noise(seed))
        # of names there are no images
        shots = tuple(0 if self.is_from_names else int(n) for n in context.present[0].sum(-1))
        # a method that works on images is told nothing by their features
        support = (
            ()
            if method.from_images or self.is_from_names
            else tuple(rows[:n] for rows, n in zip(context.rows[0], shots))
        )
        made = Head(classes, method.learner, w, self.extractor, name, shots, support, index(seed), generator_name)
        return replace(made, again=partial(self._again, made))

    @exact()
    @torch.no_grad()
    def _again(self, head: Head, rows: Mapping[str, Tensor]) -> Head:
        """A head of these classes from rows of each (K_n, F), generated as ``head`` was.

        Raises:
            InputError: what generated it is not in this run.
        """
        if head.method not in self.names or self._training(head.method) != head.generator:
            raise InputError(
                f"the head is of another training of {head.method} than {self.data} holds; generate it again from its"
                " images"
            )
        method = self.method if head.method == self.name else self.read(head.method)
        return self._head(head.method, method, tuple(rows), context_of_unequal(list(rows.values())), head.seed)

    @exact()
    def read(self, name: str) -> Method:
        """A method or a baseline of the run."""
        return read_method(self.data / "model" / "methods", name, self.body, self.device)

    def n_way(self, name: str) -> int:
        """The classes of the tasks that a method of the run was made for."""
        return int(self._saved(name)[1]["setup"]["n_way"])

    def _training(self, name: str) -> str:
        """A name for all that a method of the run has learned."""
        return digest(*self._saved(name))

    def _saved(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return read_tensors(self.data / "model" / "methods" / f"{name}.safetensors", kind=METHOD)

    def info(self) -> dict[str, Any]:
        """What the run is: plain values by name."""
        setup = self._saved(self.name)[1]["setup"]
        return info_of(self.data, self.facts["scenario"], self.method, setup, names(self.data))


def load(data: str | Path = "data", *, method: str = "") -> Run:
    """A finished run, e.g. after ``dvc repro``."""
    return Run(data, method=method)
