"""A trained generator as an object: generate heads for new classes, classify, score, save, compare.

model = ltdi.load("characters")          # a shipped model, a model folder, or a finished run
head = model.generate("my_classes")      # a folder that holds a folder of images for each class
head.classify("photographs")             # a table: image, class, probability
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ltdi.bodies.sentence_encoder import embed_names, read_descriptions
from ltdi.inference.calibration import temperature_for
from ltdi.inference.class_names import by_name, named
from ltdi.inference.head import Head
from ltdi.inference.model_files import ModelFiles
from ltdi.inference.run_info import packed_info
from ltdi.inference.user_images import Pictures, context_of_unequal, embedded, images_by_class, listed_of
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.methods.transductive.self_training import SelfTraining
from ltdi.store import digest
from ltdi.tasks.base import Context
from ltdi.tasks.transductive_tasks import knowing
from ltdi.utils.devices import exact
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


class Model:
    """A trained generator with its backbone and its baselines.

    Args:
        files: what was read of a model folder or a run.
        method: the trained method, if no other of the model's methods and baselines is named.

    Attributes:
        data: the folder.
        name: the method's.
        names: the trained method's and the baselines'.
    """

    @exact()
    def __init__(self, files: ModelFiles, *, method: str = "") -> None:
        self.files = files
        self.data = files.folder
        self.device = files.extractor.device
        self.name = method or files.trained
        self.names = files.names
        self.facts = files.scenario
        self.extractor = files.extractor
        self.body: nn.Module = files.extractor.body
        self.method = self.read(self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.data)!r}, method={self.name!r})"

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

    @property
    def naming(self) -> dict[str, Any]:
        """How class names are read; empty where the model works on images."""
        return self.files.naming

    @property
    def is_from_names(self) -> bool:
        """Whether its heads are from names alone, and not from images."""
        return "examples" not in self.facts["provides"]

    def joined(self, made: Head, examples: str | Path | Mapping[str, Pictures], *, seed: int = 0) -> tuple[Head, str]:
        """Fuse a head of names with a few images of some of its classes; a run alone can, by its meta-val tasks.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.data} is a packed model, and names are fused with images by a run's meta-val tasks; name the run"
        )

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
        of_method = self.files.facts.get("temperatures", {}).get(name, [])
        made = Head(
            classes,
            method.learner,
            w,
            self.extractor,
            name,
            shots,
            support,
            index(seed),
            generator_name,
            model=self.files.name,
            temperature=temperature_for(of_method, shots),
        )
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
        return read_method(self.files.methods, name, self.body, self.device, schema=self.files.method_schema)

    def n_way(self, name: str) -> int:
        """The classes of the tasks that a method of the run was made for."""
        return int(self.files.saved(name)[1]["setup"]["n_way"])

    def _training(self, name: str) -> str:
        """A name for all that a method of the run has learned."""
        return digest(*self.files.saved(name))

    def classify(
        self, classes: str | Path | Mapping[str, Pictures], pictures: Pictures, *, seed: int = 0
    ) -> pd.DataFrame:
        """Generate a head for ``classes`` and classify images by it: a row an image, with the class and how probable
        that is."""
        return self.generate(classes, seed=seed).classify(pictures)

    def compare(self, folder: str | Path, **sizes: Any) -> pd.DataFrame:
        """Score the method beside its baselines on tasks drawn from labelled images (``comparison.compare``)."""
        from ltdi.inference.comparison import compare

        return compare(self, Path(folder), **sizes)

    def info(self) -> dict[str, Any]:
        """Describe the model: plain values by name."""
        return packed_info(self.files, self.method)
