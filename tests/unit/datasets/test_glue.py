"""GLUE's own columns, and any folder of tables of labelled texts."""

import zipfile

import pandas as pd
import pytest
import torch

from ltdi.datasets.text_files import GLUE, read_text_set, thinned
from ltdi.utils.errors import InputError

ROWS = {
    "CoLA": 'gj04\t1\t\tThe "sailors rode.\nxx\t0\t*\tThe rode sailors.\n',
    "SST-2": "sentence\tlabel\nfine \t1\nbad\t0\n",
    "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tHe said .\tHe did say .\n0\t1\t2\ta\tb\n",
    "QQP": "id\tquestion1\tquestion2\tis_duplicate\n1\tHow?\tIn what way?\t1\n1\tHow?\tWhen?\t0\n",
    "STS-B": "index\tsentence1\tsentence2\tscore\n0\ta man\tthe man\t3.200\n1\ta\tb\t3.000\n",
    "MNLI": "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tentailment\n1\ta\tc\tneutral\n",
    "QNLI": "index\tquestion\tsentence\tlabel\n0\tq\ts\tentailment\n1\tq\tt\tnot_entailment\n",
    "RTE": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tc\tnot_entailment\n",
    "WNLI": "index\tsentence1\tsentence2\tlabel\n0\tit\tthe drain\t1\n1\tit\tthe hair\t0\n",
}


def write(folder, name, text, ending="tsv", parts=("train", "dev")):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for part in parts:
        (folder / name / f"{part}.{ending}").write_text(text)


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("zipped", [False, True])
def test_glue_is_read_by_its_columns_and_one_says_that_it_holds(name, zipped, tmp_path):
    write(tmp_path / "glue", name, ROWS[name])
    root = tmp_path / "glue"
    if zipped:
        root = tmp_path / "glue.zip"
        with zipfile.ZipFile(root, "w") as file:
            for part in ("train", "dev"):
                file.write(tmp_path / "glue" / name / f"{part}.tsv", f"{name}/{part}.tsv")
    found = read_text_set(root, name)
    assert found.labels["dev"].tolist() == [1, 0]
    assert all(len(text) == len(GLUE[name].texts) for text in found.texts["train"])
    assert found.note == f"{name}: 2 of GLUE's {GLUE[name].train_rows} training rows"
    if name == "CoLA":
        assert found.texts["train"][0] == ('The "sailors rode.',)


@pytest.mark.parametrize("ending", ["tsv", "csv", "parquet"])
def test_any_folder_is_read(ending, tmp_path):
    table = pd.DataFrame({"text1": ["x, y", "z"], "label": ["spam", "ham"], "text2": ["u", "v"]})
    (tmp_path / "mail").mkdir()
    for part in ("train", "dev"):
        file = tmp_path / "mail" / f"{part}.{ending}"
        table.to_parquet(file) if ending == "parquet" else table.to_csv(file, index=False, sep=",\t"[ending == "tsv"])
    found = read_text_set(tmp_path, "mail")
    assert found.texts["train"] == [("x, y", "u"), ("z", "v")] and found.labels["train"].tolist() == [1, 0]
    assert found.note == ""


def test_thinned_is_even_and_repeatable():
    texts, labels = [(str(j),) for j in range(50)], (torch.arange(50) % 5 == 0).long()
    few, few_labels = thinned(texts, labels, 20, 0)
    assert len(few) == 20 and few_labels.sum() == 10
    assert [int(text[0]) % 5 == 0 for text in few] == few_labels.bool().tolist()
    assert thinned(texts, labels, 20, 0)[0] == few and thinned(texts, labels, 20, 1)[0] != few
    assert len(thinned(texts, labels, 60, 0)[0]) == 40


def test_mistakes_are_one_line(tmp_path):
    def refused(expected, name, root=tmp_path):
        with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            read_text_set(root, name)

    refused("no such folder or zip", "a", tmp_path / "nowhere")
    refused("no a/train.tsv, .csv or .parquet", "a")
    write(tmp_path, "b", "words\tlabel\nx\t1\n")
    refused("columns words, label; needed are label", "b")
    write(tmp_path, "c", "text\tlabel\nx\t1\ny\t2\nz\t3\n")
    refused("3 classes; adapters are made for two", "c")
    write(tmp_path, "RTE", "a\tb\n1\t2\n")
    refused("RTE: no column 'sentence1', which GLUE's RTE has; found a, b", "RTE")
    write(tmp_path, "SST-2", "sentence\tlabel\nx\tgood\n")
    refused("SST-2: a label in the column 'label' is none of GLUE's", "SST-2")
