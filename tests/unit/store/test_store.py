"""Files that are whole or not there, and names that follow the content."""

import errno
import hashlib
import os
import pickle
from functools import partial

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.testing import assert_close

from ltdi import store
from ltdi.store import artifacts
from ltdi.utils.errors import InputError
from ltdi.utils.plain_files import read_any_json
from ltdi.utils.seeding import generator

TENSORS = {
    "weights": torch.randn(3, 4, generator=generator(0, "store")),
    "counts": torch.arange(5),
    "mask": torch.tensor([True, False]),
    "half": torch.tensor([1.5, -2.0]).bfloat16(),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 3),
}
METADATA = {"n_way": 5, "lr": 1e-3, "name": "5w1s", "shots": [1, 5], "nested": {"a": None, "b": True}}
TABLE = pd.DataFrame({"task": [0, 1], "score": [0.1, 1 / 3], "classes": [[3, 1], [0, 2]]})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LTDI_STORE", str(tmp_path))
    return store.Cache("bodies")


# --- round trips


def test_tensors_and_metadata_come_back_as_they_went_in(tmp_path):
    store.write_tensors(tmp_path / "a.safetensors", TENSORS, METADATA, kind="test")
    tensors, metadata = store.read_tensors(tmp_path / "a.safetensors", kind="test")
    assert_close(tensors, TENSORS, rtol=0, atol=0)
    assert metadata == METADATA
    assert {key: type(value) for key, value in metadata.items()} == {
        key: type(value) for key, value in METADATA.items()
    }


def test_tensors_that_share_memory_or_are_strided_come_back(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    shared = {"base": base, "row": base[1], "turned": base.mT, "expanded": base[:1].expand(5, -1)}
    store.write_tensors(tmp_path / "a.safetensors", shared, kind="test")
    assert_close(store.read_tensors(tmp_path / "a.safetensors", kind="test")[0], shared, rtol=0, atol=0)


def test_json_comes_back(tmp_path):
    store.write_json(tmp_path / "deep" / "er" / "a.json", METADATA)
    assert store.read_json(tmp_path / "deep" / "er" / "a.json") == METADATA


def test_tables_come_back(tmp_path):
    store.write_table(tmp_path / "a.parquet", TABLE)
    again = store.read_table(tmp_path / "a.parquet")
    assert list(again.columns) == list(TABLE.columns)
    assert again["score"].tolist() == TABLE["score"].tolist()
    assert [list(row) for row in again["classes"]] == TABLE["classes"].tolist()


def test_tsv_is_one_line_a_row(tmp_path):
    store.write_tsv(tmp_path / "a.tsv", pd.DataFrame({"method": ["ltdi"], "accuracy": [0.25]}))
    assert (tmp_path / "a.tsv").read_bytes() == b"method\taccuracy\nltdi\t0.25\n"


# --- whole or not there

WRITERS = {
    "a.txt": lambda path: store.write_text(path, "text"),
    "a.json": lambda path: store.write_json(path, METADATA),
    "a.safetensors": lambda path: store.write_tensors(path, TENSORS, METADATA, kind="test"),
    "a.parquet": lambda path: store.write_table(path, TABLE),
    "a.tsv": lambda path: store.write_tsv(path, TABLE),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_leaves_its_file_alone_in_the_folder(tmp_path, name):
    WRITERS[name](tmp_path / name)
    WRITERS[name](tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(InputError, match=f"{name}: permission denied; name another place"):
        WRITERS[name](tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"old"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["OSError", "safetensors"],
)
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, error):
    (tmp_path / "a.safetensors").write_bytes(b"old")

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(artifacts, "save_file", full)
    with pytest.raises(InputError, match="a.safetensors: no space left on the disk.*run the same again"):
        WRITERS["a.safetensors"](tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == b"old"


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    store.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        store.write_text(tmp_path / "a.txt", "new \ud800")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


# --- files that are not what they should be

READERS = {
    "a.safetensors": partial(store.read_tensors, kind="test"),
    "a.parquet": store.read_table,
    "a.json": store.read_json,
}


@pytest.mark.parametrize("name", READERS)
def test_a_truncated_file_is_named(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    for size in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=name) as error:
            READERS[name](path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", READERS)
def test_a_file_with_another_header_is_named(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:-8] + b"\xff" * 8)
    with pytest.raises(InputError, match=name):
        READERS[name](path)


FEW = {"w": torch.tensor([[1.0, -2.5]]), "n": torch.tensor([3, 1]), "half": torch.tensor([0.5]).bfloat16()}


def flips(whole, places):
    """The bytes with one of them altered, in one bit and in all, at each of the places in turn."""
    for i in places:
        for bits in (0x01, 0xFF):
            yield whole[:i] + bytes([whole[i] ^ bits]) + whole[i + 1 :]


def test_every_altered_byte_of_a_tensor_file_is_found(tmp_path):
    """Of its tensors, their names, types and places, and of the header with kind, version and metadata."""
    path = tmp_path / "a.safetensors"
    store.write_tensors(path, FEW, {"n_way": 5, "shots": [1, 5]}, kind="test")
    whole = path.read_bytes()
    for altered in flips(whole, range(len(whole))):
        path.write_bytes(altered)
        with pytest.raises(InputError, match="a.safetensors"):
            store.read_tensors(path, kind="test")
    path.write_bytes(whole)
    assert_close(store.read_tensors(path, kind="test")[0], FEW, rtol=0, atol=0)


@pytest.mark.parametrize("name, step", [("a.parquet", 8), ("a.json", 1)])
def test_every_altered_byte_of_a_table_and_of_facts_is_found(tmp_path, name, step):
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    for altered in flips(whole, range(0, len(whole), step)):
        path.write_bytes(altered)
        with pytest.raises(InputError, match=name):
            READERS[name](path)
    path.write_bytes(whole)
    READERS[name](path)


KINDS = {
    "a.safetensors": lambda path: store.write_tensors(path, FEW, kind="body"),
    "a.parquet": lambda path: store.write_table(path, TABLE, kind="body"),
    "a.json": lambda path: store.write_json(path, METADATA, kind="body"),
}
READ_AS = {"a.safetensors": store.read_tensors, "a.parquet": store.read_table, "a.json": store.read_json}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_another_kind_or_version_is_named(tmp_path, monkeypatch, name):
    path = tmp_path / name
    KINDS[name](path)
    with pytest.raises(InputError, match=f"{name}: holds 'body', and 'initialization' is needed"):
        READ_AS[name](path, kind="initialization")
    version = artifacts.VERSION
    monkeypatch.setattr(artifacts, "VERSION", version + 1)
    with pytest.raises(InputError, match=f"{name}: of version {version}, and {version + 1} is read"):
        READ_AS[name](path, kind="body")


@pytest.mark.parametrize("name", ["a.parquet", "a.json"])
def test_the_kind_of_a_table_and_of_facts_is_their_files_name_where_no_other_is_said(tmp_path, name):
    WRITERS[name](tmp_path / name)
    other = tmp_path / name.replace("a.", "b.")
    (tmp_path / name).rename(other)
    with pytest.raises(InputError, match="holds 'a', and 'b' is needed"):
        READ_AS[name](other)
    READ_AS[name](other, kind="a")


def test_a_number_that_json_has_not_is_not_written(tmp_path):
    with pytest.raises(InputError, match="a.json: a number is NaN or infinity"):
        store.write_json(tmp_path / "a.json", {"score": torch.nan})
    assert not list(tmp_path.iterdir())


# --- what a file was made from


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_a_file_is_refused_where_what_it_was_made_from_was_replaced(tmp_path, monkeypatch, before, after):
    first, second = tmp_path / "first" / before, tmp_path / "second" / after
    KINDS[before](first)
    content = first.read_bytes()
    write = {
        "a.safetensors": lambda: store.write_tensors(second, FEW, kind="body", made_from=[first]),
        "a.parquet": lambda: store.write_table(second, TABLE, kind="body", made_from=[first, tmp_path / "none"]),
        "a.json": lambda: store.write_json(second, METADATA, kind="body", made_from=[first]),
    }
    write[after]()
    READ_AS[after](second, kind="body")
    first.unlink()
    KINDS[before](first)  # the same again
    assert first.read_bytes() == content
    READ_AS[after](second, kind="body")
    first.unlink()
    READ_AS[after](second, kind="body")  # with nothing there it is of no other run
    WRITERS[before](first)
    with pytest.raises(
        InputError, match=f"{after}: was made from another .*{before} than is there now; delete it and run"
    ):
        READ_AS[after](second, kind="body")


def test_where_a_file_lies_is_no_part_of_it(tmp_path):
    for place in ("here", "there"):
        KINDS["a.json"](tmp_path / place / "a.json")
        made_from = [tmp_path / place / "a.json"]
        store.write_tensors(tmp_path / place / "deep" / "b", FEW, kind="test", made_from=made_from)
    assert (tmp_path / "here/deep/b").read_bytes() == (tmp_path / "there/deep/b").read_bytes()


# --- schemas


class Two(store.Facts):
    n_way: int
    shots: list[int]


SCHEMA = store.Schema("test", Two, {"w": "float B D", "n": "integer D", "*": "float …"}, finite=True)
FACTS = {"n_way": 5, "shots": [1, 5]}


@pytest.mark.parametrize(
    "tensors, facts, parts",
    [
        ({}, {"n_way": 10**30}, None),
        ({"more": torch.zeros(3, 4, 5)}, {"more": None}, None),
        ({}, {"n_way": None}, "n_way = None is not allowed in a file of kind 'test'"),
        ({}, {"n_way": True}, "n_way = True is not allowed"),
        ({}, {"shots": [1, "5"]}, "shots.1 = '5' is not allowed"),
        ({}, {"shots": ["x" * 10_000]}, "shots.0 = 'xxx"),
        ({"w": torch.zeros(2)}, {}, r"w of this test is \(2\) of float32, and \(B, D\) of float is expected"),
        ({"w": torch.zeros(1, 3)}, {}, r"n of this test is \(2\) of int64, and \(D\) of integer, D = 3 is expected"),
        ({"w": torch.zeros(1, 2).int()}, {}, "w of this test is .* of int32"),
        ({"more": torch.zeros(2).int()}, {}, "more of this test is .* of int32"),
        ({"w": torch.tensor([[1.0, torch.nan]])}, {}, "w holds NaN or infinity"),
        ({"more": torch.tensor([torch.inf, -torch.inf])}, {}, "more holds NaN or infinity"),
    ],
)
def test_what_a_schema_says_is_checked(tmp_path, tensors, facts, parts):
    path = tmp_path / "a.safetensors"
    fine = {"w": torch.ones(1, 2), "n": torch.tensor([3, 1])}
    store.write_tensors(path, fine | tensors, FACTS | facts, kind="test", finite=False)
    if parts is None:
        store.read_tensors(path, kind=SCHEMA)
        return
    with pytest.raises(InputError, match=f"a.safetensors: {parts}.*; delete it and run `dvc repro`") as error:
        store.read_tensors(path, kind=SCHEMA)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write_tensors(path, {"w": torch.ones(1, 2)}, {"n_way": 5}, kind="test")
    with pytest.raises(InputError, match="shots is missing in a file of kind 'test'"):
        store.read_tensors(path, kind=SCHEMA)
    store.write_tensors(path, {"w": torch.ones(1, 2)}, FACTS, kind="test")
    with pytest.raises(InputError, match="n is missing in a file of kind 'test'"):
        store.read_tensors(path, kind=SCHEMA)


@pytest.mark.parametrize(
    "columns, parts", [({"task": "text"}, "'task' of this a is int64"), ({"b": "text"}, "'b' is missing")]
)
def test_the_columns_of_a_table_are_checked(tmp_path, columns, parts):
    store.write_table(tmp_path / "a.parquet", TABLE)
    fine = {"task": "integer", "score": "number", "classes": "list"}
    store.read_table(tmp_path / "a.parquet", kind=store.Schema("a", columns=fine))
    with pytest.raises(InputError, match=f"a.parquet: column {parts}"):
        store.read_table(tmp_path / "a.parquet", kind=store.Schema("a", columns=fine | columns))


def test_a_sum_that_overflows_is_of_finite_numbers_all_the_same(tmp_path):
    store.write_tensors(tmp_path / "a", {"w": torch.full((9,), 3e38)}, kind="test")
    with pytest.raises(InputError, match="w of this test is not finite"):
        store.write_tensors(tmp_path / "a", {"w": torch.tensor([3e38, 3e38, torch.nan])}, kind="test")


@pytest.mark.parametrize("metadata", [None, {"kind": "test"}, {"ltdi": "5"}, {"ltdi": "{}"}, {"ltdi": "{"}])
def test_a_tensor_file_of_another_program_is_named(tmp_path, metadata):
    path = tmp_path / "a.safetensors"
    save_file(FEW, path, metadata=metadata)
    with pytest.raises(InputError, match="a.safetensors"):
        store.read_tensors(path, kind="test")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_written_unless_it_is_wanted(tmp_path, value):
    path = tmp_path / "a.safetensors"
    tensors = {"fine": torch.ones(2), "bad": torch.tensor([1.0, value]).bfloat16()}
    store.write_tensors(path, FEW, kind="test")
    with pytest.raises(InputError, match="a.safetensors: bad of this test is not finite"):
        store.write_tensors(path, tensors, kind="test")
    assert_close(store.read_tensors(path, kind="test")[0], FEW, rtol=0, atol=0)
    store.write_tensors(path, tensors, kind="test", finite=False)
    assert_close(store.read_tensors(path, kind="test")[0], tensors, rtol=0, atol=0, equal_nan=True)


def test_the_digest_of_a_file_is_of_the_content_alone(tmp_path):
    changed = FEW | {"n": torch.tensor([3, 2])}
    contents = {"a": (FEW, METADATA), "b": (FEW, METADATA), "c": (changed, METADATA), "d": (FEW, {"n_way": 6})}
    for name, (tensors, metadata) in contents.items():
        store.write_tensors(tmp_path / name, tensors, metadata, kind="test")
    digests = {name: artifacts.digest_of(tmp_path / name) for name in contents}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert digests["a"] == digests["b"] and len(set(digests.values())) == 3 and "" not in digests.values()


@pytest.mark.parametrize("read", [*READERS.values(), read_any_json])
def test_a_missing_file_and_a_folder_are_named(tmp_path, read):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "folder"):
        with pytest.raises(InputError, match=path.name):
            read(path)


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "dump", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save], ids=["pickle", "torch.save"]
)
def test_a_pickle_is_refused_and_not_run(tmp_path, name, dump):
    dump(Intruder(tmp_path / "run"), tmp_path / name)
    with pytest.raises(InputError, match=name):
        READERS[name](tmp_path / name)
    assert not (tmp_path / "run").exists()


# --- names that follow the content


def test_digests_are_the_same_on_every_machine_and_version():
    assert store.digest("abc") == hashlib.sha256(b'"abc"\0').hexdigest()
    w = torch.tensor([[1.0, -2.0]])
    assert store.digest(w) == hashlib.sha256(b"('torch.float32', (1, 2))" + w.numpy().tobytes()).hexdigest()


def test_the_digest_of_tensors_by_name_does_not_depend_on_their_order_and_knows_their_names():
    a, b = torch.zeros(2), torch.ones(2)
    assert store.digest({"a": a, "b": b}) == store.digest({"b": b, "a": a})
    different = [{"a": a, "b": b}, {"a": b, "b": a}, {"a": a, "c": b}, {"a": a}, {"a": torch.cat([a, b])}]
    assert len({store.digest(each) for each in different}) == len(different)
    assert store.digest({"a": {"b": b}, "c": a}) != store.digest({"a": {"c": b}, "c": a})


def test_digest_depends_on_values_alone():
    w = torch.arange(6.0)
    assert store.digest({"a": 1, "b": [2]}) == store.digest({"b": [2], "a": 1})
    assert store.digest(w.reshape(2, 3).mT) == store.digest(w.reshape(2, 3).mT.contiguous())
    assert store.digest(w.clone().requires_grad_()) == store.digest(w)


def test_digest_tells_dtype_shape_and_values_apart():
    w = torch.zeros(4, 2)
    different = [
        w,
        w.reshape(2, 4),
        w.flatten(),
        w[..., None],
        w.double(),
        w.int(),
        w.index_fill(0, torch.tensor([3]), 1e-30),
        torch.zeros(0),
        torch.tensor(0.0),
        torch.tensor(False),
    ]
    assert len({store.digest(value) for value in different}) == len(different)
    assert store.digest(w, w + 1) != store.digest(w + 1, w)


def test_digest_tells_where_one_value_ends():
    assert store.digest(1, 23) != store.digest(12, 3)
    assert store.digest("a", "b") != store.digest("ab")
    assert store.digest([1], [2]) != store.digest([1, 2])


# --- the cache


def test_a_kept_file_is_found_until_it_is_gone(cache):
    assert cache.find("key") is None
    path = cache.keep("key", TENSORS, METADATA)
    found, tensors, metadata = cache.find("key")
    assert found == path and metadata == METADATA
    assert_close(tensors, TENSORS, rtol=0, atol=0)
    assert cache.find("other") is None
    path.unlink()
    assert cache.find("key") is None and os.listdir(cache.folder) == []


def test_keeping_again_replaces(cache):
    cache.keep("key", {"w": torch.zeros(2)}, {})
    path = cache.keep("key", {"w": torch.ones(2)}, {})
    found, tensors, _ = cache.find("key")
    assert found == path and tensors["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "alter",
    [
        lambda b: b[:-1],
        lambda b: b + b"\0",
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        lambda b: b"",
        lambda b: b[:9] + b"\1" + b[10:],
    ],
)
def test_an_altered_file_is_not_found(cache, alter):
    path = cache.keep("key", TENSORS, METADATA)
    path.write_bytes(alter(path.read_bytes()))
    assert cache.find("key") is None


def test_a_file_of_another_kind_in_its_place_is_not_found(cache):
    store.write_tensors(cache.path("key"), TENSORS, METADATA, kind="checkpoints")
    assert cache.find("key") is None


def test_a_file_in_the_place_of_another_of_its_kind_is_not_found(cache):
    """Two that were exchanged, or one that was copied: each says itself what it is of."""
    a, b = cache.keep("a", TENSORS, METADATA), cache.keep("b", {"w": torch.ones(2)}, {}, of="what decides it")
    kept = a.read_bytes(), b.read_bytes()
    a.write_bytes(kept[1])
    b.write_bytes(kept[0])
    assert cache.find("a") is None and cache.find("b") is None and cache.find("b", of="what decides it") is None
    a.write_bytes(kept[0])
    b.write_bytes(kept[1])
    assert cache.find("a") and cache.find("b") is None and cache.find("b", of="what decides it")


def test_what_diverged_can_be_kept(cache):
    with pytest.raises(InputError, match="points of this bodies is not finite"):
        cache.keep("key", {"points": torch.tensor([torch.nan])}, {})
    assert cache.find("key") is None
    cache.keep("key", {"points": torch.tensor([torch.nan, 1.0])}, {}, finite=False)
    assert cache.find("key")[1]["points"].isnan().tolist() == [True, False]


def test_kinds_do_not_see_each_other(cache):
    cache.keep("key", TENSORS, METADATA)
    assert store.Cache("checkpoints").find("key") is None


def test_a_link_or_copy_survives_its_source(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("another file system")

    for target in (tmp_path / "x" / "linked", tmp_path / "x" / "copied"):
        (tmp_path / "source").write_text("new")
        target.parent.mkdir(exist_ok=True)
        target.write_text("old")
        store.link_or_copy(tmp_path / "source", target)
        (tmp_path / "source").unlink()
        assert target.read_text() == "new"
        monkeypatch.setattr(os, "link", no_links)
    assert sorted(os.listdir(tmp_path / "x")) == ["copied", "linked"]


# --- tried before the work


def test_a_place_that_can_be_written_is_tried_and_left_as_it_was(tmp_path):
    (tmp_path / "link").symlink_to("target")
    assert store.writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert store.writable(tmp_path / "link") == tmp_path / "target"
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize(
    "make, place, line",
    [
        (os.mkdir, "it", "a folder or no regular file"),
        (os.mkfifo, "it", "a folder or no regular file"),
        (lambda path: os.symlink("it", path), "it", "a link that leads nowhere"),
        (lambda path: os.symlink("no/such/place", path), "it/b", "a link that leads nowhere"),
        (lambda path: path.touch(), "it/b", "not a directory"),
        (os.mkdir, f"it/{'x' * 300}", "file name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, make, place, line):
    make(tmp_path / "it")
    with pytest.raises(InputError, match=line):
        store.writable(tmp_path / place)
    assert os.listdir(tmp_path) == ["it"]


def test_what_lies_beside_and_is_gone_is_missed(tmp_path):
    KINDS["a.json"](tmp_path / "a.json")
    store.write_table(tmp_path / "b.parquet", TABLE, made_from=[tmp_path / "a.json"])
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputError, match="b.parquet: was made from .*a.json, which is not there"):
        store.read_table(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda table: table[:0], "without rows"),
        (lambda table: pd.concat([table, table]), "two rows of this things have the same a"),
        (lambda table: table.assign(a=-table.a), "column 'a' of this things is int64, and not integers"),
        (lambda table: table.assign(b=float("nan")), "column 'b' of this things is float64, and not numbers"),
    ],
)
def test_a_table_of_strange_rows_is_named(tmp_path, change, told):
    schema = store.Schema("things", columns={"a": "integer", "b": "number"}, key=("a",))
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, 0.25]})
    store.write_table(tmp_path / "things.parquet", table)
    store.read_table(tmp_path / "things.parquet", kind=schema)
    store.write_table(tmp_path / "things.parquet", change(table))
    with pytest.raises(InputError, match=told):
        store.read_table(tmp_path / "things.parquet", kind=schema)


def test_numbers_of_eight_bits_are_no_floats_of_ours(tmp_path):
    store.write_tensors(
        tmp_path / "a.safetensors", {"w": torch.ones(3).to(torch.float8_e4m3fn)}, kind="x", finite=False
    )
    with pytest.raises(InputError, match=r"w of this x is \(3\) of float8_e4m3fn, and \(D\) of float is expected"):
        store.read_tensors(tmp_path / "a.safetensors", kind=store.Schema("x", tensors={"w": "float D"}, finite=True))
