"""Self-training: a transductive wrapper of any method, which regenerates the head from softly pseudo-labelled queries.

The generated head assigns each unlabelled row f to the classes by p = softmax(s · logits(f)). A class's labelled rows
are replaced by the mean of its labelled rows and of the unlabelled ones, weighted by p, repeated n_shot times, and the
method generates again from these. Around ``Prototype`` this is soft k-means (Ren et al. 2018); around a generator, the
generator replaces the nearest-mean classifier. A mean of many rows is more reliable than one of few, so that an
additional update scale shrinks the generated weights towards the initialization. Sharpness s, number of rounds and
update scale are selected on meta-val; the first candidate is the selection on the photographs' meta-val.
"""

from itertools import product

import torch
from torch import Tensor, nn

from ltdi.learners.base import Classifier
from ltdi.methods.common.base import Method
from ltdi.methods.common.trained import TrainedMethod
from ltdi.methods.transductive.base import Hyperparameters, TransductiveMethod, soft_class_means
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.errors import InputError

ROUNDS = (3, 1)
"""Candidate numbers of rounds."""
UPDATE_SCALES = (0.5, 1.0)
"""Candidate update scales of a trained generator."""
SHARPNESSES = (2.0, 1.0, 4.0, 8.0)
"""Candidates of s."""


class SelfTraining(TransductiveMethod):
    """Wrap a method to use unlabelled query rows by self-training.

    Raises:
        InputError: the method reads images, or its weights are no classifier.
    """

    def __init__(self, method: Method) -> None:
        nn.Module.__init__(self)
        if method.from_images or not isinstance(method.learner, Classifier):
            raise InputError(
                f"{type(method).__name__} generates more than a linear classifier of features, and unlabelled images do"
                " not join its classes; choose another method, or leave them out"
            )
        self.initialization, self.method, self.head = method.initialization, method, method.learner
        self.fixed_n_way = method.fixed_n_way
        parts = UPDATE_SCALES if isinstance(method, TrainedMethod) else UPDATE_SCALES[-1:]
        chosen = product(SHARPNESSES, ROUNDS, parts)
        self.candidates: tuple[Hyperparameters, ...] = tuple(
            {"sharpness": s, "rounds": r, "update_scale": p} for s, r, p in chosen
        )
        self.hparams = self.candidates[0]

    def weights(
        self,
        context: Context,
        unlabelled: Tensor,
        generator: torch.Generator,
        *,
        sharpness: float,
        rounds: int,
        update_scale: float,
    ) -> Tensor:
        """Generate weights (B, D) in ``rounds`` of self-training with sharpness s, shrunk by ``update_scale``."""
        noise = generator.get_state()

        def generated(context: Context) -> Tensor:
            # the same noise in every round: only the conditioning changes
            generator.set_state(noise)
            w = self.method.generate(context, generator=generator)
            return w if update_scale == 1 else torch.lerp(self.initialization.centre(context), w, update_scale)

        w = generated(context)
        for _ in range(rounds):
            shares = (sharpness * self.head.logits(w, unlabelled)).softmax(-1)
            means = soft_class_means(context, unlabelled, shares)[:, :, None]
            w = generated(context_of(means.expand_as(context.rows), context.mask))
        return w
