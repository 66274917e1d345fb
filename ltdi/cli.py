"""The command ``ltdi``: a head for a task of one's own, without training, from what the last run has learned."""

from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from ltdi.evaluation.condition_ablation import compare_conditions, describe_conditions
from ltdi.evaluation.weight_similarity import compare_weight_files, describe_weight_files
from ltdi.inference import answers, comparison
from ltdi.inference.adapter_run import AdapterRun
from ltdi.inference.example_task import write_example
from ltdi.inference.export import PROGRAMS, facts_of
from ltdi.inference.run import Run
from ltdi.inference.user_files import Rows, apart, differ
from ltdi.inference.user_images import listed_of
from ltdi.learners.peft_io import CONFIG, TENSORS, write_adapter
from ltdi.store import write_plain_tensors
from ltdi.utils.console import console, one_line_errors, plain, say
from ltdi.utils.errors import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="The folder of a finished run.")]
Method = Annotated[str, typer.Option(help="A method or a baseline of the run.", show_default="the trained one")]
Seed = Annotated[int, typer.Option(help="Of the noise that generation starts from.")]
Csv = Annotated[
    Path | None,
    typer.Option(
        help="Where to write the whole table; - is standard output. Text that begins with = + - @ has a ' before it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="All on standard output, a JSON object a line.")]
Every = Annotated[bool, typer.Option("--all", help="The probabilities of all classes, in the table or as JSON.")]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")]
Task = Annotated[
    Path, typer.Argument(help="A folder of classes, each a folder of images, or a kept head; with --names, images.")
]


def _version(wanted: bool) -> None:
    if wanted:
        say(f"ltdi {metadata.version('ltdi')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", help="Tell it.", is_eager=True, callback=_version)] = False,
) -> None:
    """Weights for a task that nobody has trained on."""


@app.command()
def classify(
    task: Task,
    images: Annotated[list[Path] | None, typer.Argument(help="Images to classify, or folders of them.")] = None,
    names: Annotated[str, typer.Option(help="Classes by their names alone, e.g. 'zebra, okapi, tapir'.")] = "",
    examples: Annotated[Path | None, typer.Option(help="With --names: a folder of images of some of them.")] = None,
    head: Annotated[Path | None, typer.Option(help="Where to keep the head.")] = None,
    add: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: a further class; once for each.")] = None,
    csv: Csv = None,
    json: Json = False,
    every: Every = False,
    skip: Skip = False,
    transductive: Annotated[
        bool, typer.Option(help="Learn from the images to classify too; only where there are some of every class.")
    ] = False,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Generate a head for classes of a few images each, or of names, and classify images by it."""
    with one_line_errors("ltdi classify"), Rows(csv, json, "%.4f") as rows:
        # first, so that a mistake in them leaves nothing behind
        asked = [*([task] if names else []), *(images or [])]
        files = listed_of(asked, strict=not skip)
        further = [answers.named_folder(each) for each in add or []]
        read = (task, examples, *(images or []), *(place for _, place in further))
        head = head and apart(head, data, *read)
        differ(("--csv", rows.place(data, *read)), ("--head", head))
        differ(("what --csv is written to at first", rows.part), ("--head", head))
        run = Run(data, method=method)
        if names and (described := run.naming.get("descriptions")):
            rows.place(data, Path(described))
            head = head and apart(head, data, Path(described))
        if not names and not task.is_dir() and head and not add:
            raise InputError(
                f"{task} is no folder of classes, so there is nothing to keep; leave --head out, or name a folder, or a"
                " class to --add"
            )
        answers.check_transductive(transductive, task, bool(names or add or skip), len(files))
        if names:
            made = run.generate_from_names(answers.names_in(names), seed=seed)
        else:
            made = answers.head_of(run, task, method, seed, files if transductive else None)
        made = answers.longer(run, made, examples, further, seed)
        answered = answers.answer(made, files, rows, skip=skip, every=every) if len(files) else None
        if head:
            made.save(head)
        answers.tell(made)
        if answered is not None:
            answers.show_answers(answered, made.classes, asked, rows)


class Kind(StrEnum):
    torch = "torch"
    onnx = "onnx"


class Images(StrEnum):
    uint8 = "uint8"
    float32 = "float32"


@app.command()
def export(
    task: Task,
    file: Annotated[Path, typer.Argument(help="Where to write: a safetensors file, or a program.")],
    program: Annotated[
        Kind | None,
        typer.Option(help="Images in, class probabilities out, body and all.", show_default="as the file ends"),
    ] = None,
    images: Annotated[Images, typer.Option(help="What a program takes: 0 to 255, or 0 to 1.")] = Images.uint8,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Generate a head and write its tensors by name, for any program that reads safetensors, or all as one program."""
    with one_line_errors("ltdi export"):
        file, kind = apart(file, data, task), answers.program_of(file, program)
        made = answers.head_of(Run(data, method=method), task, method, seed)
        if kind:
            PROGRAMS[kind](made, file, images=images)
            facts = facts_of(made, images)
            say(f"{file}: {facts['input']} -> {facts['output']}")
            return
        if any("\n" in each for each in made.classes):
            raise InputError(f"{file}: a class's name holds a line break, and names stand one a line; rename the class")
        tensors = made.state_dict()
        write_plain_tensors(file, tensors, {"classes": "\n".join(made.classes)})
        say(", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items()))


@app.command()
def adapt(
    task: Annotated[Path, typer.Argument(help="A folder that holds train.tsv, .csv or .parquet, and maybe dev.")],
    out: Annotated[Path, typer.Option(help="Where to write the folder that peft loads.")] = Path("adapter"),
    steps: Annotated[int, typer.Option(min=0, help="Gradient steps on train after that.")] = 0,
    lr: Annotated[float, typer.Option(min=0, help="Of these steps.")] = 1e-3,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Generate an adapter of the run's language model for labelled texts of two classes, in a form that peft loads."""
    with one_line_errors("ltdi adapt"):
        for name in (CONFIG, TENSORS):
            apart(out / name, data, *task.glob("*"))
        run = AdapterRun(data, method=method)
        parts = run.read(task)
        w = run.generate(parts["train"], seed=seed)
        w = run.train(w, parts["train"], steps=steps, lr=lr, seed=seed)
        write_adapter(out, run.learner, w[0])
        n_shot = min(run.n_shot, len(parts["train"]["labels"][0]))
        told = f"{out}: an adapter of {run.learner.body} by {run.name}, from {n_shot} examples of each class"
        told += f" and {steps} gradient steps" if steps else ""
        say(told + (f"; accuracy on dev {run.score(w, parts['dev']):.4f}" if "dev" in parts else ""))


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(help="A finished run's, or one of anybody's safetensors of one network.")],
    tasks: Annotated[int, typer.Option(help="How many meta-test tasks.")] = 500,
    csv: Csv = None,
    json: Json = False,
    method: Method = "",
    seed: Seed = 0,
) -> None:
    """Does the condition matter? Weights for right and wrong conditions; of others' files, how alike they are."""
    with one_line_errors("ltdi audit"), Rows(csv, json) as rows:
        rows.place(folder, *folder.rglob("*.safetensors"))
        is_run = (folder / "model").is_dir()
        found = (
            compare_conditions(folder, method=method, n_tasks=tasks, seed=seed)
            if is_run
            else compare_weight_files(folder)
        )
        rows.add(found)
        rows.show(found, "{:.4g}")
        say(describe_conditions(found) if is_run else describe_weight_files(found))


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="Labelled images: a folder of classes, each a folder of images.")],
    n_way: Annotated[int, typer.Option(help="Classes of a task.")] = 5,
    n_shot: Annotated[int, typer.Option(help="Images of each class that a head is made from.")] = 1,
    n_query: Annotated[int | None, typer.Option(help="Further ones that are asked.", show_default="15")] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks are drawn.")] = 1000,
    csv: Csv = None,
    json: Json = False,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Does it pay on your images? Generated heads beside every baseline, on tasks drawn from labelled classes."""
    with one_line_errors("ltdi compare"), Rows(csv, json) as rows:
        rows.place(data, folder)
        run = Run(data, method=method)
        found = comparison.compare(run, folder, n_way=n_way, n_shot=n_shot, n_query=n_query, n_tasks=tasks, seed=seed)
        rows.add(found)
        rows.show(found, "{:.4f}")
        say(comparison.told_of(found))


@app.command()
def info(data: Data = Path("data"), method: Method = "", json: Json = False) -> None:
    """What a run is."""
    with one_line_errors("ltdi info"), Rows(None, json) as rows:
        found = Run(data, method=method).info()
        if json:
            return rows.add(pd.DataFrame([found]))
        table = Table(show_header=False)
        for name, value in found.items():
            table.add_row(plain(name), plain(str(value)))
        console.print(table)


@app.command()
def example(
    task: Annotated[int, typer.Option(help="Which meta-test task.")] = 0,
    data: Data = Path("data"),
) -> None:
    """Write a meta-test task as folders of images, to try ``classify`` on."""
    with one_line_errors("ltdi example"):
        folder, n_way = write_example(data, task)
        where = "" if data == Path("data") else f" --data {data}"
        say(
            f"{folder}: {n_way} classes that nobody has trained on; ltdi classify {folder / 'support'}"
            f" {folder / 'query'}{where}"
        )


if __name__ == "__main__":
    app()
