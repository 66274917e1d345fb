"""Test-time use: a method that sees what is to be classified, unlabelled, as part of its condition.

Its head gives each unlabelled row f to the classes by p = softmax(s · logits(f)); in the place of a class's labelled
rows then stands the mean of these and, by its shares, of the others, as often as there were rows; and from these rows
the method generates again. Around ``Prototype`` it is soft k-means (Ren et al. 2018); around a generator the generator
takes the place of the nearest mean, both where it assigns and where it answers. Of many rows a mean is surer than of
few, and a trained generator goes but a part of its way from the start. Sharpness s, the number of rounds and that part
are chosen on meta-val; the first candidate is what the photographs' meta-val has chosen.
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
UPDATE_SCALES = (0.5, 1.0)
SHARPNESSES = (2.0, 1.0, 4.0, 8.0)


class SelfTrained(TransductiveMethod):
    """
    Raises:
        InputError: the method works on images, or its weights classify nothing.
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
        noise = generator.get_state()

        def generated(context: Context) -> Tensor:
            # the same noise in every round: what differs is the condition
            generator.set_state(noise)
            w = self.method.generate(context, generator=generator)
            return w if update_scale == 1 else torch.lerp(self.initialization.centre(context), w, update_scale)

        w = generated(context)
        for _ in range(rounds):
            shares = (sharpness * self.head.logits(w, unlabelled)).softmax(-1)
            means = soft_class_means(context, unlabelled, shares)[:, :, None]
            w = generated(context_of(means.expand_as(context.rows), context.mask))
        return w
