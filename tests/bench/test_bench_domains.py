"""The three columns of Table 4's form: their params, the ordinary classifier, and what stands in the table."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from torch.testing import assert_close

from bench.harness.report import render
from bench.harness.settings import conf
from bench.tables import domains
from bench.tables.domains import Ordinary
from ltdi.learners import LinearHead
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from pipeline.common.params import load

PLAN = conf("domains")


@pytest.mark.parametrize("column", PLAN["columns"])
def test_the_plan_is_one_of_valid_params(column, tmp_path):
    for method in domains.METHODS:
        YAML().dump(domains.params_of(PLAN, column, method, tmp_path), tmp_path / "params.yaml")
        found = load(tmp_path / "params.yaml", "data", "method", "diffusion")
        of = found.data.domains
        assert found.method.name == method and found.diffusion.steps > 1
        assert not (set(of.train) & set(of.val) or set(of.train + of.val) & set(of.test))
        assert ("data.splits" in PLAN["columns"][column]["changes"]) is False
        assert (found.data.splits is not None) == ("splits" in PLAN["columns"][column])


def test_every_class_of_pacs_is_seen_or_unseen_and_tasks_have_as_many_as_are_unseen():
    split = list(PLAN["columns"]["b"]["splits"].values())
    assert len(split) == 7 and set(split) == {"train", "test"}
    assert split.count("test") == PLAN["columns"]["b"]["changes"]["tasks.n_way"]


class World(SimpleNamespace):
    """Two training domains of three classes in other orders, and a domain of two of them."""

    def __init__(self) -> None:
        stream = generator(0, "ordinary")
        self.centres = dict(zip("abc", 3 * torch.randn(3, 6, generator=stream)))
        rows, sets = [], {"meta_train": {}, "meta_test": {"test": SimpleNamespace(names=("test/c", "test/a"))}}
        for domain, classes in (("one", "cab"), ("two", "abc")):
            sets["meta_train"][domain] = SimpleNamespace(names=tuple(f"{domain}/{name}" for name in classes))
            rows += [self.centres[name] + torch.randn(5 + len(rows), 6, generator=stream) for name in classes]
        super().__init__(centres=self.centres, sets=sets, train=SimpleNamespace(by_class=lambda: iter(rows)), rows=rows)


def test_the_ordinary_classifier_knows_the_classes_in_the_order_that_is_asked():
    world, learner = World(), LinearHead(6)
    ordinary = Ordinary.fit(world.train, world.sets, learner)
    w = ordinary.weights(torch.tensor([[0, 1], [1, 0]]))
    asked = torch.stack([world.centres["c"], world.centres["a"]])
    assert learner.logits(w, asked.expand(2, -1, -1)).argmax(-1).tolist() == [[0, 1], [1, 0]]


def test_it_is_at_the_optimum_of_its_loss_over_all_images():
    """The gradient of C Σ CE + ½ s² ‖W‖² vanishes for one of the Cs that are tried."""
    world, learner = World(), LinearHead(6)
    ordinary = Ordinary.fit(world.train, world.sets, learner)
    of_c, of_a = (torch.cat([world.rows[i] for i in own]).double() for own in ((0, 5), (1, 3)))
    rows, labels = torch.cat([of_c, of_a]), torch.tensor([0] * len(of_c) + [1] * len(of_a))
    weight, bias = (value.double().requires_grad_() for value in (ordinary.weight, ordinary.bias))
    size = (rows - rows.mean(0)).square().sum(1).mean()
    (of_data,) = torch.autograd.grad(F.cross_entropy(rows @ weight.T + bias, labels, reduction="sum"), weight)
    ratios = -of_data / (size * weight)
    assert_close(ratios, ratios.median().expand_as(ratios), rtol=1e-2, atol=1e-3)


def test_a_class_that_was_not_trained_on_is_one_line():
    world = World()
    world.sets["meta_test"] = {"test": SimpleNamespace(names=("test/d",))}
    with pytest.raises(InputError, match="class d"):
        Ordinary.fit(world.train, world.sets, LinearHead(6))


def test_reported_figures_stand_in_columns_of_their_own():
    common = {"seed": 0, "tasks": 50, "device": "a machine", "commit": "c", "ci95": 0.01}
    rows = []
    for column, ways in (("a", 5), ("b", 3)):
        cell = common | {"setting": column, "n_way": ways, "n_shot": 1}
        paired = {"best_baseline": "ridge", "paired_diff": 0.02, "paired_ci95": 0.005}
        rows.append(cell | paired | {"method": "ltdi", "accuracy": 0.6})
        rows.append(cell | {"method": "ridge", "accuracy": 0.58})
    rows.append(common | {"setting": "a", "n_way": 5, "n_shot": 1, "method": "ordinary", "accuracy": 0.7})
    photos = [
        common | {"setting": place, "n_shot": 1, "method": "ridge", "accuracy": 0.5} for place in ("cifar10", "x")
    ]
    text = render("domains", rows=pd.DataFrame(rows), photos=pd.DataFrame(photos).assign(best_baseline=None))
    assert "(a) 5-way 1-shot | (b) 3-way 1-shot | (c) 5-way 1-shot |" in text
    cell = "60.00 ± 1.00 (+2.00 ± 0.50, ridge)"
    assert f"| Lt-Di | {cell} | {cell} |  | 68.10 | 72.42 |" in text
    assert "| ridge | 58.00 ± 1.00 | 58.00 ± 1.00 | 50.00 ± 1.00 |  |  |" in text
    assert "| ordinary classifier of all training classes | 70.00 ± 1.00 |  |  |  |  |" in text
    assert "| GHN3 |  |  |  | 63.11 | 66.42 |" in text
