"""Tables of texts as people write them: read as they are meant, or refused in one line, and never mangled."""

import gzip
import zipfile

import pandas as pd
import pytest

from ltdi.datasets.text_files import read_text_set
from ltdi.utils.errors import InputError

ROWS = "".join(f"word {j},{('neg', 'pos')[j % 2]}\n" for j in range(40))
CSV = "text,label\n" + ROWS


def read(tmp_path, parts=("train",), **files):
    """The set of files by name, whose dots are written as two lines."""
    folder = tmp_path / "mail"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(content)
    return read_text_set(tmp_path, "mail", parts)


def test_what_was_read_is_said(tmp_path):
    found = read(tmp_path, train__csv="text,label,text_length\nx,pos,1\ny,neg,1\nz,pos,1\n")
    assert found.told == {"train": "3 rows: 1 neg, 2 pos; of text; not read: the column text_length"}
    assert found.texts["train"] == [("x",), ("y",), ("z",)] and found.classes == ("neg", "pos")


def test_labels_are_numbered_by_train(tmp_path):
    train, dev = "text,label\na,bad\nb,good\n", "text,label\nc,good\nd,good\n"
    found = read(tmp_path, ("train", "dev"), train__csv=train, dev__csv=dev)
    assert found.labels["train"].tolist() == [0, 1] and found.labels["dev"].tolist() == [1, 1]
    with pytest.raises(InputError, match=r"^[^\n]*dev.csv: label 'worse' in line 3 is none of train's \(bad, good\)"):
        read(tmp_path, ("train", "dev"), dev__csv="text,label\nc,good\nd,worse\n")


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_dev_may_be_named_as_others_name_it(name, tmp_path):
    files = {"train__csv": CSV, f"{name}__csv": CSV}
    assert len(read(tmp_path, ("train", "dev"), **files).texts["dev"]) == 40
    with pytest.raises(InputError, match=rf"^[^\n]*dev.csv: beside it lies {name}.csv, which is dev too[^\n]*$"):
        read(tmp_path, ("train", "dev"), dev__csv=CSV)


def test_a_tab_separated_table_has_no_quotation_marks(tmp_path):
    """They are characters of the text, at its beginning too."""
    found = read(tmp_path, train__tsv='text\tlabel\n"good, cheap\t1\n"bad" idea\t0\nx\t1\n')
    assert found.texts["train"] == [('"good, cheap',), ('"bad" idea',), ("x",)]


@pytest.mark.parametrize(
    "text",
    [CSV, "\ufeff" + CSV, CSV.replace("\n", "\r\n"), CSV + "\n\n", CSV.replace(",", ", ")],
    ids=["plain", "byte-order mark", "of Windows", "empty lines", "spaces behind commas"],
)
def test_the_same_table_in_every_plain_form(text, tmp_path):
    found = read(tmp_path, train__csv=text)
    assert found.texts["train"][3] == ("word 3",) and found.labels["train"].sum() == 20


def test_a_quoted_text_holds_commas_marks_and_line_breaks(tmp_path):
    found = read(tmp_path, train__csv='text,label\n"good, ""cheap""\nand fast",1\nx,0\n')
    assert found.texts["train"][0] == ('good, "cheap"\nand fast',)


def test_pairs_stand_in_the_order_of_their_names(tmp_path):
    found = read(tmp_path, train__csv="sentence2,label,sentence1\nb,1,a\nd,0,c\n")
    assert found.texts["train"] == [("a", "b"), ("c", "d")]


def test_labels_of_numbers_are_the_same_in_every_kind_of_file(tmp_path):
    (tmp_path / "mail").mkdir()
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}).to_parquet(tmp_path / "mail" / "train.parquet")
    found = read(tmp_path, ("train", "dev"), dev__csv="text,label\nc, 1\n")
    assert found.labels["dev"].tolist() == [1] and found.classes == ("0", "1")


def swallowed(n=12):
    """Two texts that begin with a quotation mark, and the rows between them."""
    rows = [f"word {j},{j % 2}" for j in range(n)]
    return "text,label\nx,0\n" + '"good, 1\n' + "\n".join(rows) + '\nbad",0\ny,1\n'


REFUSED = {
    "a comma too many": ({"train__csv": "text,label\ngood, cheap, fast,1\n"}, r"line 2 has 4 fields, .* 2 columns"),
    "a tab too many": ({"train__tsv": "text\tlabel\na\tb\t1\n"}, r"line 2 has 3 fields, .* write a space for a tab"),
    "a field too few": ({"train__csv": "text,label\nx,1\ny\n"}, r"line 3 has 1 fields"),
    "rows swallowed": ({"train__csv": swallowed()}, r"holds what looks like a row of its own \('good, 1'\)"),
    "a mark within": ({"train__csv": 'text,label\n"a" b,1\nc,0\n'}, r"row that begins at line 2 cannot be read"),
    "a mark not closed": ({"train__csv": 'text,label\nx,1\n"a,0\nc,1\n'}, r"row that begins at line 3 cannot be read"),
    "too long a field": ({"train__csv": f"text,label\n{'x' * 131073},1\n"}, r"more than 131,072 characters"),
    "no column": (
        {"train__csv": "text_length,label\n1,1\n"},
        r"columns text_length, label; needed are label,",
    ),
    "two kinds of columns": ({"train__csv": "text,sentence,label\na,b,1\n"}, r"columns text, sentence, label; needed"),
    "a column twice": ({"train__csv": "text,text,label\na,b,1\n"}, r"two columns are named 'text'"),
    "cp1252": ({"train__csv": CSV.replace("word 1,", "café,").encode("cp1252")}, r"line 3 holds the byte 0xe9"),
    "UTF-16": ({"train__csv": CSV.encode("utf-16")}, r"a file of UTF-16, .* save it as UTF-8"),
    "UTF-16 without a mark": ({"train__csv": CSV.encode("utf-16-le")}, r"line 1 holds a NUL"),
    "gzip": ({"train__csv": gzip.compress(CSV.encode())}, r"a file of gzip, .* unpack it"),
    "gzip by its name": ({"train__csv__gz": b""}, r"no mail/train.tsv, .csv or .parquet \(there are 'train.csv.gz'\)"),
    "parquet as csv": ({"train__csv": b"PAR1 and so on"}, r"a file of parquet"),
    "empty": ({"train__csv": ""}, r"an empty file; needed are"),
    "no rows": ({"train__csv": "text,label\n"}, r"no rows below the columns' names"),
    "no label": ({"train__csv": "text,label\nx,1\ny,\nz,0\n"}, r"label is empty in line 3"),
    "no text": ({"train__csv": "text,label\nx,1\n ,0\n"}, r"text is empty in line 3"),
    "one class": ({"train__csv": "text,label\nx,1\ny,1\n"}, r"1 classes; adapters are made for two"),
    "damaged parquet": ({"train__parquet": b"PAR1" + b"x" * 99}, r"no whole parquet file"),
    "two files": ({"train__csv": CSV, "train__tsv": CSV}, r"beside it lies train.csv, which is train too"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_as_it_is_meant_is_one_line(kind, tmp_path):
    files, expected = REFUSED[kind]
    with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
        read(tmp_path, **files)


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({"text": ["a", None], "label": [0, 1]}, "text is empty in row 2"),
        ({"text": ["a", "b"], "label": [0, None]}, "label is 0.0 in row 1, and no text|label is empty in row 2"),
        ({"text": [1, 2], "label": [0, 1]}, "text is 1 in row 1, and no text"),
        ({"text": [["a"], ["b"]], "label": [0, 1]}, "text is .* in row 1, and no text"),
        ({"text": [], "label": []}, "no rows"),
    ],
)
def test_a_parquet_whose_values_are_missing_or_no_texts_is_one_line(columns, expected, tmp_path):
    (tmp_path / "mail").mkdir()
    pd.DataFrame(columns).to_parquet(tmp_path / "mail" / "train.parquet")
    with pytest.raises(InputError, match=f"^[^\n]*({expected})[^\n]*$"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["none", "damaged", "encrypted", "an unknown method"])
def test_a_zip_that_cannot_be_unpacked_is_one_line(kind, tmp_path):
    place = tmp_path / "sets.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("mail/train.csv", CSV)
    content = bytearray(place.read_bytes())
    central, local = content.rindex(b"PK\x01\x02"), content.index(b"PK\x03\x04")
    if kind == "none":
        content = bytearray(b"nothing")
    elif kind == "damaged":
        content[local + 60 : local + 80] = bytes(20)
    elif kind == "encrypted":
        content[central + 8] |= 1
        content[local + 6] |= 1
    else:  # Deflate64
        content[central + 10] = content[local + 8] = 9
    place.write_bytes(content)
    expected = "no zip file" if kind == "none" else "mail/train.csv: cannot be unpacked"
    with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
        read_text_set(place, "mail", ["train"])


@pytest.mark.parametrize("text", ["", "index\tsentence1\n0\ta\tb\tc\td\n1\n", b"\xff\xfe\x00"])
def test_a_damaged_set_of_glue_is_one_line(text, tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "train.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match="^[^\n]*RTE[^\n]*$"):
        read_text_set(tmp_path, "RTE", ["train"])
