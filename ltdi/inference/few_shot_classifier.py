"""A classifier of images with scikit-learn's interface, fitted by generating a head.

clf = FewShotClassifier().fit(images, labels)   # paths, PIL images, arrays or tensors
clf.predict(new); clf.predict_proba(new); clf.score(test, labels)
clf.save("head.safetensors"); FewShotClassifier.load("head.safetensors")
"""

import inspect
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ltdi.inference.class_names import by_place
from ltdi.inference.head import Head, facts_of_head
from ltdi.inference.loading import fitting_model, load, model_of_head, shipped
from ltdi.inference.model import Model
from ltdi.inference.user_images import Pictures, listed_of
from ltdi.utils.errors import InputError, short

AUTO = "auto"
LABEL_KINDS = "biufUO"
"""NumPy's letters for labels: truth values, integers, floats and text."""


class NotFittedError(InputError, AttributeError):
    """The classifier is used before ``fit``: both of the types that scikit-learn's error of this name has."""


class FewShotClassifier:
    """Classify images of new classes from a few images of each.

    Fitting generates a head on a frozen backbone in a fraction of a second, and trains nothing. scikit-learn is not
    needed; where it is installed, ``clone``, pipelines, cross-validation and searches take this classifier.

    Args:
        model: "auto", the shipped model that fits the images (in colour or in shades of grey); a shipped name, a model
            folder, a finished run, or a model that ``ltdi.load`` opened.
        method: a baseline of the model in place of its trained generator.
        seed: of the noise that generation starts from.
        device: where it computes; by default ``LTDI_DEVICE``, or a GPU where there is one.

    Attributes:
        classes_: the labels, sorted; column i of ``predict_proba`` is of label i.
        head_: the generated head.
        model_: the model that generated it.
    """

    _estimator_type = "classifier"

    classes_: np.ndarray
    head_: Head
    model_: Model

    def __init__(self, model: Any = AUTO, *, method: str = "", seed: int = 0, device: str = "") -> None:
        self.model = model
        self.method = method
        self.seed = seed
        self.device = device

    # -- fitting

    def fit(self, X: Pictures, y: Any) -> "FewShotClassifier":
        """Generate a head from images and the label of each.

        Raises:
            InputError: an image cannot be read, the numbers of images and labels differ, or there are fewer than two
                classes.
        """
        images, labels = _paired(X, y)
        classes = _distinct(labels)
        if len(classes) < 2:
            raise InputError(f"y holds {len(classes)} class ({short(classes.tolist())}); give images of two or more")
        return self._generate(_by_name(images, labels), classes, images)

    def fit_folder(self, folder: str | Path) -> "FewShotClassifier":
        """Generate a head from a folder that holds a folder of images for each class, or a table of file,label.

        Raises:
            InputError: it is not so, or there are fewer than two classes.
        """
        by_class = by_place(Path(folder))
        images = [file for files in by_class.values() for file in files]
        return self._generate(by_class, np.unique(list(by_class)), images)

    def partial_fit(self, X: Pictures, y: Any, classes: Sequence[Any] | None = None) -> "FewShotClassifier":
        """Generate the head again with further images, of its classes or of new ones; the earlier images need not be
        given again. The first call is ``fit``.

        Args:
            X: images.
            y: the label of each.
            classes: labels that are allowed; those of the first call, by scikit-learn's convention.

        Raises:
            InputError: as of ``fit``, or the method keeps no features of the earlier images.
        """
        images, labels = _paired(X, y)
        if classes is not None and (strange := [each for each in labels.tolist() if each not in list(classes)]):
            raise InputError(f"label {short(strange[0])} is not among classes = {short(list(classes))}; add it there")
        if not self.__sklearn_is_fitted__():
            return self.fit(images, labels)
        both = _distinct([*self.classes_.tolist(), *labels.tolist()])
        self.head_ = self.head_.with_images(_by_name(images, labels))
        self.classes_ = both
        return self

    def _generate(self, by_class: dict[str, list], classes: np.ndarray, images: Sequence[Any]) -> "FewShotClassifier":
        self.model_ = self._opened(images)
        self.head_ = self.model_.generate(by_class, seed=self.seed)
        self.classes_ = classes
        return self

    def _opened(self, images: Sequence[Any]) -> Model:
        if isinstance(self.model, Model):
            return self.model
        name = fitting_model(images) if self.model == AUTO else str(self.model)
        return _shipped(name, self.method, self.device) if name in shipped() else load(
            name, method=self.method, device=self.device
        )  # fmt: skip

    # -- classification

    def predict_proba(self, X: Pictures) -> np.ndarray:
        """The probability of each class (M, N), in the order of ``classes_``."""
        self._check_fitted()
        return self.head_.probabilities(X).numpy()[:, self._columns()]

    def predict_log_proba(self, X: Pictures) -> np.ndarray:
        """The logarithm of ``predict_proba`` (M, N)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Pictures) -> np.ndarray:
        """The most probable label of each image (M,)."""
        labels = self.predict_proba(X).argmax(1)
        return self.classes_[labels]

    def predict_top_k(self, X: Pictures, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """The k most probable labels of each image, the first one first, and their probabilities: (M, k) both.

        Raises:
            InputError: k is not from 1 to the number of classes.
        """
        self._check_fitted()
        if not 1 <= k <= len(self.classes_):
            raise InputError(f"k = {k}: there are {len(self.classes_)} classes; give 1 to {len(self.classes_)}")
        probabilities = self.predict_proba(X)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        return self.classes_[order], np.take_along_axis(probabilities, order, 1)

    def score(self, X: Pictures, y: Any = None, sample_weight: Sequence[float] | None = None) -> float:
        """The share of images whose most probable label is right; without ``y``, of a folder of class folders.

        Raises:
            InputError: the numbers of images and labels differ.
        """
        self._check_fitted()
        if y is None:
            return self.head_.score(Path(X))  # type: ignore[arg-type]
        images, labels = _paired(X, y)
        return float(np.average(self.predict(images) == labels, weights=sample_weight))

    def _columns(self) -> list[int]:
        return [self.head_.classes.index(str(label)) for label in self.classes_.tolist()]

    # -- files

    def save(self, file: str | Path) -> None:
        """Write the head as a file that stands alone: weights, labels, and the model's name and digest."""
        self._check_fitted()
        self.head_.save(file, labels=self.classes_.tolist())

    @classmethod
    def load(cls, file: str | Path, *, model: Any = AUTO, device: str = "") -> "FewShotClassifier":
        """Read a classifier, or any head, that was saved.

        Args:
            file: what ``save`` or ``Head.save`` wrote.
            model: as of the class; "auto" is the shipped model that the head names.
            device: as of the class.

        Raises:
            InputError: it is none, or was generated by another model.
        """
        name = model_of_head(Path(file)) if isinstance(model, str) and model == AUTO else model
        opened = name if isinstance(name, Model) else load(name, device=device)
        head, facts = opened.load_head(file), facts_of_head(Path(file))
        made = cls(
            name, method="" if head.method == opened.files.trained else head.method, seed=head.seed, device=device
        )
        made.model_, made.head_ = opened, head
        labels = facts.get("labels", list(head.classes))
        if not isinstance(labels, list) or sorted(map(str, labels)) != sorted(head.classes):
            raise InputError(f"{file}: its labels are not those of its classes; save it again")
        made.classes_ = _distinct(labels)
        return made

    # -- scikit-learn's conventions

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> "FewShotClassifier":
        """Set arguments of the constructor; they count from the next ``fit`` on.

        Raises:
            InputError: there is none of that name.
        """
        allowed = self.get_params()
        for name, value in params.items():
            if name not in allowed:
                raise InputError(f"Invalid parameter {name!r} of {type(self).__name__}; allowed: {', '.join(allowed)}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "head_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        inputs = InputTags(one_d_array=True, two_d_array=False, three_d_array=True, string=True)
        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags(), input_tags=inputs)

    def __repr__(self) -> str:
        defaults = {name: each.default for name, each in inspect.signature(type(self)).parameters.items()}
        shown = (f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name])
        return f"{type(self).__name__}({', '.join(shown)})"

    def _check_fitted(self) -> None:
        """
        Raises:
            NotFittedError: there is no head.
        """
        if not self.__sklearn_is_fitted__():
            line = f"this {type(self).__name__} is not fitted yet; call fit with images and labels first"
            raise _not_fitted_type()(line)


def _not_fitted_type() -> type[NotFittedError]:
    """The error's type, which is also scikit-learn's where a program has imported that."""
    if "sklearn.exceptions" not in sys.modules:
        return NotFittedError
    return type("NotFittedError", (NotFittedError, sys.modules["sklearn.exceptions"].NotFittedError), {})


@lru_cache(maxsize=4)
def _shipped(name: str, method: str, device: str) -> Model:
    """A shipped model, opened once for all folds of a cross-validation."""
    return load(shipped()[name], method=method, device=device)


def _paired(X: Pictures, y: Any) -> tuple[list[Any], np.ndarray]:
    """Images and their labels, as many of each.

    Raises:
        InputError: they are not, or labels are of several axes or of a type that cannot be kept.
    """
    if y is None:
        raise InputError("fit requires y to be passed, but the target y is None; give the label of each image")
    images, labels = list(listed_of(X)), np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in LABEL_KINDS:
        raise InputError(f"y of shape {labels.shape} and type {labels.dtype}; give one label an image, text or numbers")
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images and {len(labels)} labels; give as many of each")
    return images, labels


def _distinct(labels: Sequence[Any] | np.ndarray) -> np.ndarray:
    """The labels that occur, sorted.

    Raises:
        InputError: they are text and numbers, or not numbers.
    """
    try:
        found = np.unique(np.asarray(labels))
    except TypeError as error:
        raise InputError("y holds labels of several types, which have no order; make all of them text") from error
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise InputError("y holds labels that are NaN or infinite; give text or finite numbers")
    return found


def _by_name(images: Sequence[Any], labels: np.ndarray) -> dict[str, list]:
    """The images of each class by the text of its label, in the order of labels."""
    found: dict[str, list] = {str(label): [] for label in _distinct(labels).tolist()}
    for image, label in zip(images, labels.tolist(), strict=True):
        found[str(label)].append(image)
    return found
