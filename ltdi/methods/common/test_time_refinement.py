"""Test-time refinement: average several generated heads, then take a few gradient steps on the support set."""

from itertools import repeat

import torch
from torch import Tensor

from ltdi.learners.base import Learner
from ltdi.learners.fitting import train
from ltdi.methods.common.base import Method
from ltdi.tasks.base import Context
from ltdi.utils.errors import InputError


class TestTimeRefinement(Method):
    """Wrap a method to spend more time per task. With one head and no step it equals that method.

    Args:
        method: generates the heads.
        heads: heads generated per task, each from its own noise. All start from one initialization, so that their
            hidden units correspond and the weights can be averaged.
        adapt_steps, adapt_lr: steps and learning rate of Adam on the whole support set.

    Raises:
        InputError: ``adapt_steps`` > 0 for a method that generates weights of another learner than the run's.
    """

    def __init__(self, method: Method, *, heads: int, adapt_steps: int, adapt_lr: float) -> None:
        torch.nn.Module.__init__(self)
        self.initialization = method.initialization
        if adapt_steps and method.learner is not method.initialization.learner:
            raise InputError(
                f"generate.adapt_steps = {adapt_steps}, but {type(method).__name__} generates more than a head; set 0"
            )
        self.method, self.heads, self.adapt_steps, self.adapt_lr = method, heads, adapt_steps, adapt_lr
        self.adapts = method.adapts or adapt_steps > 0

    @property
    def learner(self) -> Learner:
        """The learner of the wrapped method."""
        return self.method.learner

    @property
    def from_images(self) -> bool:
        """Whether the wrapped method reads images."""
        return self.method.from_images

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Average ``heads`` generated weight vectors, then adapt them by gradient steps: (B, D).

        Raises:
            InputError: ``adapt_steps`` > 0, and the tasks have no labelled examples.
        """
        w = torch.stack([self.method.generate(context, generator=generator) for _ in range(self.heads)]).mean(0)
        if self.adapt_steps == 0:
            return w
        if context.examples is None:
            raise InputError(
                f"generate.adapt_steps = {self.adapt_steps} takes steps on labelled examples, which these tasks do not"
                " have; set 0"
            )
        examples, record = repeat(context.examples), [self.adapt_steps]
        return train(self.learner, w, examples, optimizer="adam", lr=self.adapt_lr, record=record).weights[:, 0]
