"""What the table of heads from names adds to names: matching, unlabelled images."""

from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from described_worlds import NamedWorld
from PIL import Image
from safetensors.torch import save_file
from text_encoders import write_encoder

from bench.harness.rows import scored
from bench.zero_shot import data as zero_shot_data
from bench.zero_shot import resnet12 as zero_shot_resnet12
from bench.zero_shot import run as zero_shot
from bench.zero_shot import world as zero_shot_world
from bench.zero_shot.data import shuffled
from bench.zero_shot.run import overlapping
from bench.zero_shot.tracks import matched, right, right_matched, with_unlabelled
from ltdi.tasks.named_class_tasks import NamedClassTasks
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_the_best_of_all_permutations(seed):
    pytest.importorskip("scipy")
    share = torch.rand(6, 6, generator=generator(seed, "matching"), dtype=torch.double)
    best = max(sum(share[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    assert matched(share) == pytest.approx(best.item())


def blobs():
    """Unit images (M, Q, F) around unit centres (M, N, F), and their labels."""
    stream = generator(0, "blobs")
    centres = F.normalize(torch.randn(8, 4, 16, generator=stream), dim=-1)
    labels = torch.arange(4).repeat_interleave(20).expand(8, -1)
    noise = 0.15 * torch.randn(8, 80, 16, generator=stream)
    return centres, F.normalize(centres.repeat_interleave(20, 1) + noise, dim=-1), labels


def test_permuted_names_are_matched_and_scored_as_they_are():
    pytest.importorskip("scipy")
    centres, images, labels = blobs()
    turned = centres.roll(1, 1)
    assert right(centres, images, labels).min() > 0.9 and right(turned, images, labels).max() < 0.1
    assert torch.equal(right_matched(turned, images, labels), right(centres, images, labels))


def test_unlabelled_images_mend_a_poor_head_and_an_own_share_of_one_keeps_it():
    centres, images, labels = blobs()
    poor = F.normalize(centres + 0.25 * torch.randn(centres.shape, generator=generator(0, "poor")), dim=-1)
    assert torch.allclose(with_unlabelled(poor, images, 20.0, 1.0), poor, atol=1e-6)
    mended = with_unlabelled(poor, images, 20.0, 0.25)
    assert right(mended, images, labels).mean() > right(poor, images, labels).mean() + 0.03


# --- what is read off a method


@pytest.fixture(scope="module")
def named():
    world = NamedWorld("kernel_ridge")
    world.sources = {"meta_train": world.train, "meta_val": world.val, "test": every_class(world.test)}
    return world


def every_class(source):
    """Tasks of all classes of a source, each in an order of its own."""
    sizes = {"n_tasks": 6, "n_way": len(source.of), "n_query": 5}
    return NamedClassTasks.of_classes(source.of, **sizes, seed=0, split="all")


def test_names_of_known_classes_give_their_rows_back(named):
    assert zero_shot_world.given_back(named.prepared("nearest_name"), named, 0).tolist() == [1.0] * 60
    ridge = zero_shot_world.given_back(named.prepared("kernel_ridge"), named, 0)
    other = SimpleNamespace(sources={"meta_train": shuffled(named.train, 1)})
    assert ridge.mean() > 0.9 and zero_shot_world.given_back(named.prepared("nearest_name"), other, 0).sum() == 0
    assert len(zero_shot_world.given_back(named.prepared("conse"), named, 0)) == 0


@pytest.mark.parametrize("name", ["kernel_ridge", "conse"])
def test_accuracy_by_class_is_the_tasks_accuracy_taken_apart(name, named):
    method, source = named.prepared(name), named.sources["test"]
    right, said = zero_shot_world.by_class(method, source, 0)
    assert right.mean().item() == pytest.approx(scored(method, source, 0).mean().item(), abs=1e-6)
    assert right.std() > 0 and torch.allclose(said.sum(1), torch.ones(20, dtype=torch.double))
    single = zero_shot_world.probabilities(named.prepared("kernel_ridge"), source, 0)
    assert single.shape == (20, 2, 20) and torch.allclose(single.sum(-1), torch.ones(20, 2))


def test_ceilings_are_above_what_names_give(named):
    source, val = named.sources["test"], named.sources["meta_val"]
    of_names = scored(named.prepared("kernel_ridge"), source, 0).mean()
    means = {"test": source.of.means(), "meta_val": val.of.means()}
    assert zero_shot_world.of_means(named, means["test"], source).mean() > of_names
    rows = zero_shot_world.of_rows(named, means["test"] - named.initialization.table.mean, source).mean()
    likeness = zero_shot_world.by_similarity(named, means, ["test"])["test"].mean()
    assert rows > of_names and rows >= likeness > 0.8
    others = {part: of.roll(1, 0) for part, of in means.items()}
    assert zero_shot_world.by_similarity(named, others, ["test"])["test"].mean() < 0.2


# --- the whole table, on made-up features


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """What stands in for features of a body, and the files beside them: a class's text is its name's, and tells
    nothing."""
    folder = tmp_path_factory.mktemp("names")
    stream = generator(0, "bench names")
    keys = [f"n{j:03d}" for j in range(210)]
    centres = torch.randn(210, 8, generator=stream)

    def images(of, n):
        return of[:, None] + 0.5 * torch.randn(len(of), n, 8, generator=stream)

    names = [f"zebra {key}" for key in keys[:207]] + ["cat", "dog", "egyptian cat"]
    (folder / "classes.tsv").write_text("".join(f"{key}\t{name}\n" for key, name in zip(keys, names)))
    save_file({"classifier.weight": centres}, folder / "classifier.safetensors")
    found = {
        "tiny": (keys[:200], images(centres[:200], 6)),
        "cifar": (["cat", "dog", "okapi", "tapir"], images(centres[-4:], 6)),
        "pets": (["Egyptian Mau", "cat", "okapi"], images(centres[-3:], 6)),
    }
    hparams = {
        "classes": folder / "classes.tsv",
        "body": folder / "classifier.safetensors",
        "encoder": str(write_encoder(folder / "encoder")),
    }
    return found, hparams


@pytest.mark.slow
def test_the_table_of_every_method(made_up, monkeypatch, tmp_path):
    """The second call measures nothing again."""
    pytest.importorskip("scipy")
    found, hparams = made_up
    monkeypatch.setenv("LTDI_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(zero_shot, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(zero_shot, "features", lambda file, *known: found[file.name])
    monkeypatch.setattr(zero_shot, "files_of", lambda *known: {})
    monkeypatch.setattr(zero_shot, "SHUFFLES", (1,))
    monkeypatch.setattr(zero_shot_data, "N_TASKS", 3)
    monkeypatch.setattr(zero_shot, "further", lambda *known: {"pets": found["pets"]})
    monkeypatch.setattr(zero_shot, "draw_task", lambda file, said, *known: file.write_text(str(said.shape)))
    places = tmp_path / "tiny", tmp_path / "cifar"
    hparams |= {"seed": [0], "images": 6, "steps": 2, "prompts": "name", "data": ["pets=somewhere"]}
    zero_shot.main(*places, **hparams, picture=tmp_path / "own.png", method=zero_shot.GENERATORS)
    text = (tmp_path / "results" / "zero_shot.md").read_text()
    for name in (*zero_shot.OF_NAMES, *zero_shot.GENERATORS):
        assert text.count(f"| {name}") >= 2, name
    assert "pets, 3-way | 2 classes of ImageNet | 1 others" in text and "The generator with the highest" in text
    assert (tmp_path / "results" / "figures" / "zero_shot.png").stat().st_size < 200_000
    assert (tmp_path / "own.png").read_text() == "torch.Size([4, 2, 4])"
    monkeypatch.setattr(zero_shot, "measured", None)
    zero_shot.main(*places, **hparams, method=zero_shot.GENERATORS)
    assert (tmp_path / "results" / "zero_shot.md").read_text() == text


def test_which_classes_are_imagenets_too():
    known = ["Siamese cat", "boxer", "German short-haired pointer"]
    assert overlapping("pets", ["boxer", "Siamese", "Bengal"], known) == [True, True, False]
    assert overlapping("stl10", ["airplane", "car"], known) == [True, True]
    assert overlapping("mine", ["siamese_cat", "German short haired pointer", "cat"], known) == [True, True, False]


def picture_at(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (hash(file.name) % 255, 9, 9)).save(file)


def further_sets(root, monkeypatch):
    """Of two data sets in their own layout, and a folder, what is embedded: a class's images by name."""
    for name in ("Abyssinian_1", "Abyssinian_2", "american_bulldog_7", "american_bulldog_8"):
        picture_at(root / "oxford-iiit-pet" / "images" / f"{name}.jpg")
    for number in ("01", "02", "03", "04"):
        picture_at(root / "fgvc-aircraft-2013b" / "data" / "images" / f"{number}.jpg")
    for split, lines in (("trainval", "01 A320\n02 F-16A/B\n"), ("test", "03 A320\n04 F-16A/B\n")):
        (root / "fgvc-aircraft-2013b" / "data" / f"images_variant_{split}.txt").write_text(lines)
    for name in ("a/1", "a/2", "b_c/3", "b_c/4", "b_c/5"):
        picture_at(root / "mine" / f"{name}.png")
    seen = {}

    def embedded(by_class, content, size, body, told):
        seen[told] = {name: [str(file).rsplit("/", 1)[-1] for file in files] for name, files in by_class.items()}
        return torch.zeros(len(by_class), 1, 2)

    monkeypatch.setattr(zero_shot_data, "_embedded", embedded)
    told = [f"pets={root}", f"aircraft={root}", f"mine={root / 'mine'}"]
    return zero_shot_data.further(told, 2, root), seen


def test_further_data_sets_are_read_in_their_own_layout(tmp_path, monkeypatch):
    found, seen = further_sets(tmp_path, monkeypatch)
    assert {name: classes for name, (classes, _) in found.items()} == {
        "pets": ["Abyssinian", "american bulldog"],
        "aircraft": ["A320", "F-16A B"],
        "mine": ["a", "b c"],
    }
    assert seen["aircraft"] == {"A320": ["01.jpg", "03.jpg"], "F-16A B": ["02.jpg", "04.jpg"]}
    assert seen["mine"] == {"a": ["1.png", "2.png"], "b c": ["4.png", "5.png"]}
    for told in ("pets", "pets=", "cifar=somewhere"):
        with pytest.raises(InputError, match="^--data [^\n]* is not NAME=FOLDER"):
            zero_shot_data.further([told], 2, tmp_path)
    with pytest.raises(InputError, match="^data set stl10 is not in "):
        zero_shot_data.further([f"stl10={tmp_path}"], 2, tmp_path)


@pytest.mark.slow
def test_a_resnet12_learns_its_classes_and_gives_its_rows(monkeypatch):
    monkeypatch.setattr(zero_shot_resnet12, "BATCH", 24)
    monkeypatch.setattr(zero_shot_resnet12, "FILTERS", 4)
    stream = generator(0, "images")
    looks = torch.randint(0, 256, (4, 1, 3, 16, 16), generator=stream)
    images = (looks + torch.randint(-30, 30, (4, 10, 3, 16, 16), generator=stream)).clamp(0, 255).to(torch.uint8)
    body, rows, right = zero_shot_resnet12.trained(images, 100, 0)
    assert rows.shape == (4, body.width) and right > 0.6 and not body.training
    with torch.no_grad():
        said = (body(images.flatten(0, 1).float() / 255) @ rows.mT).argmax(-1)
    assert (said == torch.arange(4).repeat_interleave(10)).float().mean() > 0.9
