"""Folders of photographs and the known data sets: layouts, splits, domains, images that are read when asked for."""

import os
import re
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.embedding import embed
from ltdi.datasets import DATASETS, SPLITS, expand_classes, folder, join, photographs, transform
from ltdi.datasets.domain_sets import domains
from ltdi.utils.errors import InputError


def write(file, value, size=(12, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(file)


def make(root, *classes, n=3):
    """``n`` images of each class, the number of the class in their grey."""
    for i, name in enumerate(classes):
        for j in range(n):
            write(root / name / f"{j} ü,.png", 10 * i + j)
    return root


def zipped(root, top=""):
    with zipfile.ZipFile(root.with_name(f"{root.name}.zip"), "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, f"{top}{file.relative_to(root)}")
    shutil.rmtree(root)
    return root


def names(found):
    return {domain: sorted(classes) for domain, classes in found.items()}


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


# --- a folder


@pytest.mark.parametrize("pack", [lambda r: r, zipped, lambda r: zipped(r, "photos/")], ids=["folder", "zip", "top"])
def test_the_three_layouts_in_folders_and_zips(tmp_path, pack):
    flat = folder.find(pack(make(tmp_path / "photos", "a cat", "b,dog", "ü")))
    assert names(flat) == {"": ["a cat", "b,dog", "ü"]}
    shutil.rmtree(tmp_path / "photos", ignore_errors=True)
    parted = folder.find(pack(make(tmp_path / "photos", "photo/cat", "photo/dog", "sketch/cat")))
    assert names(parted) == {"photo": ["cat", "dog"], "sketch": ["cat"]} and not folder.is_split(parted)
    assert names(folder.by_domain(parted)) == names(parted)


def test_images_of_a_class_in_several_splits_belong_together(tmp_path):
    found = folder.find(make(tmp_path / "photos", "train/cat", "train/dog", "test/cat"))
    assert folder.is_split(found)
    assert {name: len(own) for name, own in folder.by_domain(found)[""].items()} == {"cat": 6, "dog": 3}


def test_classes_are_split_by_folders_by_a_table_or_by_chance(tmp_path):
    classes = [f"c{i:02d}" for i in range(20)]
    found = folder.find(make(tmp_path / "photos", *classes))
    parts = folder.split_classes(found, seed=1)
    assert [len(parts[split][""]) for split in SPLITS] == [12, 3, 5]
    assert sorted(name for part in parts.values() for name in part[""]) == classes
    assert names(folder.split_classes(found, seed=1)["meta_val"]) == names(parts["meta_val"])
    assert names(folder.split_classes(found, seed=2)["meta_val"]) != names(parts["meta_val"])
    table = tmp_path / "splits.csv"
    rows = [f"{name},{('train', 'val', 'test')[i % 3]}" for i, name in enumerate(classes)]
    table.write_text("class,split\n" + "\n".join(rows))
    assert names(folder.split_classes(found, table=table)["meta_val"]) == {"": classes[1::3]}
    by_folders = folder.find(make(tmp_path / "parted", "train/a", "train/b", "val/c", "val/d", "test/e", "test/f"))
    assert names(folder.split_classes(by_folders)["meta_test"]) == {"": ["e", "f"]}


def test_a_class_is_in_one_split_in_all_domains(tmp_path):
    found = folder.find(make(tmp_path / "p", *(f"{d}/c{i}" for d in ("photo", "sketch") for i in range(12))))
    for part in folder.split_classes(found).values():
        assert part["photo"].keys() == part["sketch"].keys()
    parts = photographs.load(tmp_path / "p", name="folder", size=8)
    assert parts["meta_val"].domains == ("photo",) * 2 + ("sketch",) * 2


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    refused(lambda: folder.find(tmp_path / "none"), "none", "no images")
    root = make(tmp_path / "photos", "a", "b")
    (root / "empty").mkdir()
    refused(lambda: folder.find(root), "empty: no image")
    (root / "empty").rmdir()
    write(root / "loose.png", 0)
    refused(lambda: folder.find(root), "loose.png", "<class>/")
    (root / "loose.png").unlink()
    write(root / "x/y/z/0.png", 0)
    refused(lambda: folder.find(root), "x/y/z/0.png")
    shutil.rmtree(root / "x")
    make(root, "photo/a")
    refused(lambda: folder.find(root), "both")
    shutil.rmtree(root / "photo")
    write(root / "single/0.png", 0)
    refused(lambda: folder.image_set(folder.find(root), size=8), "single", "1 image")
    (tmp_path / "t.csv").write_text("class,split\nnobody,train\n")
    refused(lambda: folder.split_classes(folder.find(root), table=tmp_path / "t.csv"), "nobody")
    (tmp_path / "t.csv").write_text("class,split\na,holiday\n")
    refused(lambda: folder.split_classes(folder.find(root), table=tmp_path / "t.csv"), "holiday", "train, val, test")
    refused(lambda: folder.split_classes(folder.find(root), table=tmp_path / "none.csv"), "none.csv")
    refused(lambda: folder.split_classes(folder.find(root)), "classes for meta_", "data.splits")


TABLE = "class,split\na,train\nb,train\nü,val\nd,val\ne,test\nf,test\n"


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace(",", ", ").encode(),
        unicodedata.normalize("NFD", TABLE).encode(),
        (TABLE + "a,train\n").encode(),
    ],
    ids=["plain", "byte-order mark", "of Windows", "spaces", "accents behind letters", "a line twice"],
)
def test_the_same_table_of_splits_in_every_form(content, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    parts = folder.split_classes(folder.find(make(tmp_path / "p", *"abüdef")), table=tmp_path / "t.csv")
    assert [names(part)[""] for part in parts.values()] == [["a", "b"], ["d", "ü"], ["e", "f"]]


@pytest.mark.parametrize(
    "content, expected",
    [
        (TABLE.encode("cp1252"), "line 4 holds the byte 0xfc"),
        (TABLE.encode("utf-16"), "a file of UTF-16"),
        (f"class,split\n{'a' * 131073},train\n".encode(), "more than 131,072 characters"),
        (b"class,split\na,train\na,test\n", "class 'a' is there again in line 3, and of another split"),
        (TABLE.encode() + unicodedata.normalize("NFD", "ü,test\n").encode(), "there again in line 8"),
        (b"class,split\na,train,val\n", "line 2 has 3 fields"),
        (b"class,split\na\n", "line 2 has 1 fields"),
        (b'class,split\n"a,train\n', "cannot be read"),
        (b"class;split\na;train\n", "must have the columns class,split and a line a class, and has 'class;split'"),
        (b"class,split\n", "no rows"),
        (b"", "an empty file"),
    ],
)
def test_what_is_wrong_with_a_table_of_splits_is_one_line(content, expected, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    refused(lambda: folder.read_table(tmp_path / "t.csv"), f"data.splits = {tmp_path / 't.csv'}: ", expected)


def test_a_table_of_splits_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    refused(lambda: folder.read_table(tmp_path / "t.csv"), "data.splits", "no regular file")


def test_a_class_is_one_however_its_accents_are_written(tmp_path):
    """As in folders that were packed on machines of different kinds; beside each other they are a mistake."""
    apart = unicodedata.normalize("NFD", "café")
    found = folder.find(make(tmp_path / "domains", "photo/café", "photo/a", f"sketch/{apart}"))
    assert names(found) == {"photo": ["a", "café"], "sketch": ["café"]}
    found = folder.by_domain(folder.find(make(tmp_path / "splits", "train/café", f"test/{apart}")))
    assert {name: len(own) for name, own in found[""].items()} == {"café": 6}
    for classes in (("a", "café", apart), ("photo/café", "sketch/a", f"photo/{apart}"), ("café/a", f"{apart}/b")):
        root = make(tmp_path / "-".join(classes).replace("/", "_"), *classes)
        refused(lambda root=root: folder.find(root), str(root), "names that look the same", r"cafe\u0301")


# --- streamed


def test_streamed_images_are_those_of_the_files(tmp_path):
    made = folder.image_set(folder.find(make(tmp_path / "photos", "a", "b")), size=8)
    assert made.images.shape == (6, 3, 8, 8) and made.counts == (3, 3)
    assert made.images[:].float().mean((1, 2, 3)).tolist() == [0, 1, 2, 10, 11, 12]
    assert made.pixels(torch.tensor([[5], [0]]))[:, 0, 0, 0, 0].tolist() == [12, 0]


def test_they_are_turned_joined_and_embedded_as_images_in_memory_are(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    made = folder.image_set({"": {"a": list(noise[:2]), "b": list(noise[2:])}}, size=8)
    turned = expand_classes(made, "dihedral")
    dense = [transform(made.images[:], m, q) for m in (False, True) for q in range(4)]
    assert turned.images[:].equal(torch.cat(dense))
    assert turned.images[torch.tensor([9])].equal(torch.cat(dense)[9:10])
    both = join(made, folder.image_set({"": {"c": list(noise[:2])}}, size=8))
    assert both.images[:].equal(torch.cat([made.images[:], made.images[:2]])) and both.counts == (2, 2, 2)
    torch.manual_seed(0)
    body = Conv4(3, filters=4).eval()
    big = [np.kron(each, np.ones((4, 4, 1), np.uint8)) for each in noise]
    streamed = folder.image_set({"": {"a": big}}, size=32).images
    torch.testing.assert_close(embed(body, streamed, batch=3), embed(body, streamed[:]))


def test_their_name_is_of_their_content(tmp_path):
    first = folder.image_set(folder.find(make(tmp_path / "one", "a", "b")), size=8).images
    again = folder.image_set(folder.find(make(tmp_path / "two", "c", "d")), size=8).images
    assert first.name == again.name
    assert first.name != folder.image_set(folder.find(tmp_path / "one"), size=9).images.name
    write(tmp_path / "two/c/0 ü,.png", 99)
    assert first.name != folder.image_set(folder.find(tmp_path / "two"), size=8).images.name


# --- known data sets, in the layouts of their authors


def test_tiny_imagenet_and_imagenet(tmp_path):
    home = tmp_path / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        for j in range(2):
            write(home / f"train/{wnid}/images/{wnid}_{j}.JPEG", j)
    write(home / "val/images/val_0.JPEG", 0)
    assert names(photographs.find("tiny_imagenet", tmp_path)) == {"": ["n01", "n02"]}
    zipped(home)
    assert names(photographs.find("tiny_imagenet", tmp_path)) == {"": ["n01", "n02"]}
    make(tmp_path / "imagenet", "train/n03", "train/n04", "val/n03")
    assert names(photographs.find("imagenet", tmp_path)) == {"": ["n03", "n04"]}


def test_domainnet_in_folders_and_zips_of_domains(tmp_path):
    home = make(tmp_path / "domainnet", "clipart/cat", "clipart/dog", "real/cat", "real/dog")
    zipped(home / "real", "real/")
    (home / "clipart_train.txt").write_text("clipart/cat/0.png 0\n")
    assert names(photographs.find("domainnet", tmp_path)) == {"clipart": ["cat", "dog"], "real": ["cat", "dog"]}


def test_pacs_pets_and_aircraft(tmp_path):
    make(tmp_path / "PACS/kfold", "photo/dog", "sketch/dog")
    assert names(photographs.find("pacs", tmp_path)) == {"photo": ["dog"], "sketch": ["dog"]}
    for name in ("Abyssinian_1", "Abyssinian_2", "great_pyrenees_10"):
        write(tmp_path / f"oxford-iiit-pet/images/{name}.jpg", 0)
    assert names(photographs.find("pets", tmp_path)) == {"": ["Abyssinian", "great_pyrenees"]}
    data = tmp_path / "fgvc-aircraft-2013b/data"
    for number in ("0000001", "0000002", "0000003"):
        write(data / f"images/{number}.jpg", 0)
    (data / "images_variant_trainval.txt").write_text("0000001 F-16A/B\n0000002 707-320\n")
    (data / "images_variant_test.txt").write_text("0000003 707-320\n")
    found = photographs.find("aircraft", tmp_path)
    assert {name: len(own) for name, own in found[""].items()} == {"F-16A_B": 1, "707-320": 2}


def test_cifar10_as_class_folders_and_from_torchvision(tmp_path, monkeypatch):
    make(tmp_path / "zips/cifar10-test", "test/cat", "test/dog")
    zipped(tmp_path / "zips/cifar10-test")
    assert names(photographs.find("cifar10", tmp_path / "zips")) == {"test": ["cat", "dog"]}

    class Laid:
        classes = ["cat", "dog"]

        def __init__(self, root, *, download, train):
            self.data = np.full((4, 32, 32, 3), 7 if train else 9, np.uint8)
            self.targets = [0, 1, 0, 1]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Laid)
    found = photographs.find("cifar10", tmp_path)
    assert {name: len(own) for name, own in found[""].items()} == {"cat": 4, "dog": 4}
    assert folder.image_set(found, size=16).images[:][:, 0, 0, 0].tolist() == [7, 7, 9, 9] * 2


@pytest.mark.parametrize("name", photographs.KNOWN)
def test_a_data_set_that_is_not_there_is_one_line(name, tmp_path):
    refused(lambda: photographs.find(name, tmp_path), name, str(tmp_path), "http")


# --- domains by their entry


def test_an_entry_names_a_data_set_its_domains_or_a_folder(tmp_path):
    make(tmp_path / "PACS", "photo/dog", "sketch/dog", "sketch/cat")
    make(tmp_path / "mine", "cat", "dog", n=9)
    assert [each.domains[0] for each in domains("pacs", tmp_path, size=8)] == ["pacs/photo", "pacs/sketch"]
    (sketch,) = domains("pacs/sketch", tmp_path, size=8)
    assert sketch.names == ("pacs/sketch/cat", "pacs/sketch/dog")
    (mine,) = domains("mine", tmp_path, size=8, most=3)
    assert mine.counts == (3, 3) and mine.images[:][:3, 0, 0, 0].tolist() == [0, 4, 8]
    refused(lambda: domains("pacs/clay", tmp_path, size=8), "pacs/clay", "pacs/photo")
    refused(lambda: domains("yours", tmp_path, size=8), "yours", "known data set")


def test_every_data_set_of_the_params_is_there(repository):
    text = (repository / "params.yaml").read_text()
    comment = re.search(r"^data:\n((?:  #.*\n)+)  name: glyphs", text, re.MULTILINE)[1]
    assert set(DATASETS) <= set(re.findall(r"\w+", comment))
