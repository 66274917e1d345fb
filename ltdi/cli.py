"""The command ``ltdi``: a head for a task of one's own, without training, from what the last run has learned."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ltdi import comparison
from ltdi.adapter import AdapterRun
from ltdi.answering import answered, head_of, named_folder, names_in, tell
from ltdi.audit import audit_run, told_of_run
from ltdi.console import console, one_line_errors, plain, say
from ltdi.errors import InputError
from ltdi.example import write_example
from ltdi.likeness import audit_files, told_of_files
from ltdi.outputs import apart, differ, show_first
from ltdi.peft_format import CONFIG, TENSORS, write_adapter
from ltdi.pictures import listed_of
from ltdi.program import PROGRAMS, facts_of
from ltdi.run import Run
from ltdi.store import write_plain_tensors

app = typer.Typer(help="Weights for a task that nobody has trained on.", add_completion=False, no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="The folder of a finished run.")]
Method = Annotated[str, typer.Option(help="A method or a control of the run.", show_default="the trained one")]
Seed = Annotated[int, typer.Option(help="Of the noise that generation starts from.")]
Task = Annotated[
    Path, typer.Argument(help="A folder of classes, each a folder of images, or a kept head; with --names, images.")
]


@app.command()
def classify(
    task: Task,
    images: Annotated[list[Path] | None, typer.Argument(help="Images to classify, or folders of them.")] = None,
    names: Annotated[str, typer.Option(help="Classes by their names alone, e.g. 'zebra, okapi, tapir'.")] = "",
    examples: Annotated[Path | None, typer.Option(help="With --names: a folder of images of some of them.")] = None,
    head: Annotated[Path | None, typer.Option(help="Where to keep the head.")] = None,
    add: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: a further class; once for each.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Where to write all answers.")] = None,
    transductive: Annotated[
        bool, typer.Option(help="Learn from the images to classify too; only where there are some of every class.")
    ] = False,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Generate a head for classes of a few images each, or of names, and classify images by it."""
    with one_line_errors("ltdi classify"):
        # first, so that a mistake in them leaves nothing behind
        files = listed_of([*([task] if names else []), *(images or [])])
        further = [named_folder(each) for each in add or []]
        read = (task, examples, *(images or []), *(place for _, place in further))
        csv, head = csv and apart(csv, data, *read), head and apart(head, data, *read)
        differ(("--csv", csv), ("--head", head))
        run = Run(data, method=method)
        if not names and not task.is_dir() and head and not add:
            raise InputError(
                f"{task} is no folder of classes, so there is nothing to keep; leave --head out, or name a folder, or a"
                " class to --add"
            )
        if transductive and (names or add or not task.is_dir() or not len(files)):
            raise InputError(
                "--transductive takes a folder of classes and images to classify, and neither --names nor --add; leave"
                " it out, or name these"
            )
        if names:
            made = run.generate_from_names(names_in(names), seed=seed)
        else:
            made = head_of(run, task, method, seed, files if transductive else None)
        if examples:
            made, told = run.joined(made, examples, seed=seed)
            say(told)
        for name, place in further:
            made = made.with_class(name, place)
        answers = made.classify(files)
        if head:
            made.save(head)
        tell(made)
        if len(files):
            answered(answers, made.classes, images or [], csv)


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
        typer.Option(help="Images in, class probabilities out, body and all.", show_default="the head's tensors alone"),
    ] = None,
    images: Annotated[Images, typer.Option(help="What a program takes: 0 to 255, or 0 to 1.")] = Images.uint8,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Generate a head and write its tensors by name, for any program that reads safetensors, or all as one program."""
    with one_line_errors("ltdi export"):
        file = apart(file, data, task)
        made = head_of(Run(data, method=method), task, method, seed)
        if program:
            PROGRAMS[program](made, file, images=images)
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
    csv: Annotated[Path | None, typer.Option(help="Where to write the table.")] = None,
    method: Method = "",
    seed: Seed = 0,
) -> None:
    """Does the condition matter? Weights for right and wrong conditions; of others' files, how alike they are."""
    with one_line_errors("ltdi audit"):
        csv = csv and apart(csv, folder, *folder.rglob("*.safetensors"))
        is_run = (folder / "model").is_dir()
        found = audit_run(folder, method=method, n_tasks=tasks, seed=seed) if is_run else audit_files(folder)
        show_first(found, csv, told="{:.4g}", written="%.6g")
        say(told_of_run(found) if is_run else told_of_files(found))


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="Labelled images: a folder of classes, each a folder of images.")],
    n_way: Annotated[int, typer.Option(help="Classes of a task.")] = 5,
    n_shot: Annotated[int, typer.Option(help="Images of each class that a head is made from.")] = 1,
    n_query: Annotated[int | None, typer.Option(help="Further ones that are asked.", show_default="15")] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks are drawn.")] = 1000,
    csv: Annotated[Path | None, typer.Option(help="Where to write the table.")] = None,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
) -> None:
    """Does it pay on your images? Generated heads beside every control, on tasks drawn from labelled classes."""
    with one_line_errors("ltdi compare"):
        csv, run = csv and apart(csv, data, folder), Run(data, method=method)
        found = comparison.compare(run, folder, n_way=n_way, n_shot=n_shot, n_query=n_query, n_tasks=tasks, seed=seed)
        show_first(found, csv, told="{:.4f}", written="%.6g")
        say(comparison.told_of(found))


@app.command()
def info(data: Data = Path("data"), method: Method = "") -> None:
    """What a run is."""
    with one_line_errors("ltdi info"):
        table = Table(show_header=False)
        for name, value in Run(data, method=method).info().items():
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
