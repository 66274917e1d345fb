"""The classes of two splits together: new tasks are of all of them, the table stays the first's."""

from dataclasses import replace

import torch

from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.tasks.domain_tasks import DomainTasks
from ltdi.utils.errors import InputError


def pooled(first: ClassTasks, second: ClassTasks) -> ClassTasks:
    """The tasks of the first's table, and new ones of the classes of both; of two sources of domains each stays one.

    Raises:
        InputError: one has augmented copies of its images and the other has not.
    """
    if first.n_views != second.n_views:
        raise InputError(
            f"tasks.views = {first.n_views - 1} makes copies of meta-training images alone, and with meta.refit = true"
            " meta-val's are learned from as well; set views to 0, or refit to false"
        )
    of = _classes(first.of, second.of)
    if not isinstance(first, DomainTasks) or not isinstance(second, DomainTasks):
        return ClassTasks(of, first.classes, first.support, first.query)
    sizes = (*first.sizes, *second.sizes)
    among = (*first.among, *(len(first.sizes) + domain for domain in second.among))
    return DomainTasks(of, first.classes, first.support, first.query, sizes, among, first.power)


def _classes(first: Classes, second: Classes) -> Classes:
    """Views one after the other, each of the first's rows and then the second's."""
    views = [of.features.unflatten(0, (of.n_views, of.n_rows)) for of in (first, second)]
    images = None
    if first.images is not None and second.images is not None:
        images = torch.cat([first.images, second.images])
    counts = torch.cat([first.counts, second.counts])
    return replace(first, features=torch.cat(views, 1).flatten(0, 1), counts=counts, images=images)
