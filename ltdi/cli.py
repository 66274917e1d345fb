"""The command ``ltdi``: a head for a task of one's own, without training, from a shipped model or a run.

What takes seconds to import is imported by the command that uses it, so that ``--help`` and shell completion do not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Data = Annotated[Path, typer.Option(help="The folder of a finished run.")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "--data",
        help="A shipped model's name, a model folder, or the folder of a finished run.",
        show_default="the run in data, else the shipped model that fits the images",
    ),
]
Method = Annotated[str, typer.Option(help="A method or a baseline of the model.", show_default="the trained one")]
Seed = Annotated[int, typer.Option(help="Of the noise that generation starts from.")]
Csv = Annotated[
    Path | None,
    typer.Option(
        help="Where to write the whole table; - is standard output. Text that begins with = + - @ has a ' before it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="All on standard output, a JSON object a line.")]
Every = Annotated[bool, typer.Option("--all", help="The probabilities of all classes, in the table or as JSON.")]
Top = Annotated[int, typer.Option(help="How many of the most probable classes of an image.")]
Unknown = Annotated[
    float, typer.Option(help="An image whose classes are all less probable than this is of class unknown.")
]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Answers and errors alone.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …", show_default="LTDI_DEVICE, or a GPU if there is one")]
Task = Annotated[
    Path,
    typer.Argument(
        help="A folder of classes, each a folder of images; a table of file,label; a kept head; with --names, images."
    ),
]


@contextmanager
def _command(name: str, quiet: bool = False, device: str = "") -> Iterator[None]:
    """Run a command: mistakes end it with one line, its numbers are the same every time, and the ``device`` is that of
    all that it calls."""
    from ltdi.utils.console import one_line_errors, quietly
    from ltdi.utils.devices import exact

    before = os.environ.get("LTDI_DEVICE")
    if device:
        os.environ["LTDI_DEVICE"] = device
    try:
        with one_line_errors(f"ltdi {name}"), quietly(quiet), exact():
            yield
    finally:
        if device and before is None:
            os.environ.pop("LTDI_DEVICE", None)
        elif device and before is not None:
            os.environ["LTDI_DEVICE"] = before


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ltdi {metadata.version('ltdi')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Generate a classifier head for new classes from a few images each, without training."""


@app.command()
def classify(
    task: Task,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images to classify, folders of them, or lists of files (.csv, .txt).")
    ] = None,
    names: Annotated[str, typer.Option(help="Classes by their names alone, e.g. 'zebra, okapi, tapir'.")] = "",
    examples: Annotated[Path | None, typer.Option(help="With --names: a folder of images of some of them.")] = None,
    head: Annotated[Path | None, typer.Option(help="Where to keep the head.")] = None,
    add: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: a further class; once for each.")] = None,
    csv: Csv = None,
    json: Json = False,
    every: Every = False,
    top: Top = 1,
    unknown: Unknown = 0.0,
    skip: Skip = False,
    transductive: Annotated[
        bool, typer.Option(help="Learn from the images to classify too; only where there are some of every class.")
    ] = False,
    method: Method = "",
    seed: Seed = 0,
    model: Model = None,
    quiet: Quiet = False,
    device: Device = "",
) -> None:
    """Generate a head for classes of a few images each, or of names, and classify images by it."""
    from ltdi.inference import answers
    from ltdi.inference.class_names import holds_classes
    from ltdi.inference.loading import find, load_for
    from ltdi.inference.user_files import Rows, apart, differ
    from ltdi.inference.user_images import listed_of
    from ltdi.utils.errors import InputError

    with _command("classify", quiet, device), Rows(csv, json, "%.4f") as rows:
        # first, so that a mistake in them leaves nothing behind
        data = find(model)
        asked = [*([task] if names else []), *(images or [])]
        files = listed_of(asked, strict=not skip)
        further = [answers.named_folder(each) for each in add or []]
        read = (task, examples, *(images or []), *(place for _, place in further))
        head = head and apart(head, data, *read)
        differ(("--csv", rows.place(data, *read)), ("--head", head))
        differ(("what --csv is written to at first", rows.part), ("--head", head))
        opened = load_for(model, task, method=method)
        if names and (described := opened.naming.get("descriptions")):
            rows.place(data, Path(described))
            head = head and apart(head, data, Path(described))
        if not names and not holds_classes(task) and head and not add:
            raise InputError(
                f"{task} is no folder of classes, so there is nothing to keep; leave --head out, or name a folder, or a"
                " class to --add"
            )
        answers.check_transductive(transductive, task, bool(names or add or skip), len(files))
        if names:
            made = opened.generate_from_names(answers.names_in(names), seed=seed)
        else:
            made = answers.head_of(opened, task, method, seed, files if transductive else None)
        made = answers.longer(opened, made, examples, further, seed)
        answered = (
            answers.answer(made, files, rows, skip=skip, every=every, top=top, unknown=unknown) if len(files) else None
        )
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
    model: Model = None,
    quiet: Quiet = False,
    device: Device = "",
) -> None:
    """Generate a head and write its tensors by name, for any program that reads safetensors, or all as one program."""
    from ltdi.inference import answers
    from ltdi.inference.export import PROGRAMS, facts_of
    from ltdi.inference.loading import find, load_for
    from ltdi.inference.user_files import apart
    from ltdi.store import write_plain_tensors
    from ltdi.utils.console import comment
    from ltdi.utils.errors import InputError

    with _command("export", quiet, device):
        file, kind = apart(file, find(model), task), answers.program_of(file, program)
        made = answers.head_of(load_for(model, task, method=method), task, method, seed)
        if kind:
            PROGRAMS[kind](made, file, images=images)
            facts = facts_of(made, images)
            comment(f"{file}: {facts['input']} -> {facts['output']}")
            return
        if any("\n" in each for each in made.classes):
            raise InputError(f"{file}: a class's name holds a line break, and names stand one a line; rename the class")
        tensors = made.state_dict()
        write_plain_tensors(file, tensors, {"classes": "\n".join(made.classes)})
        comment(", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items()))


@app.command()
def adapt(
    task: Annotated[Path, typer.Argument(help="A folder that holds train.tsv, .csv or .parquet, and maybe dev.")],
    out: Annotated[Path, typer.Option(help="Where to write the folder that peft loads.")] = Path("adapter"),
    steps: Annotated[int, typer.Option(min=0, help="Gradient steps on train after that.")] = 0,
    lr: Annotated[float, typer.Option(min=0, help="Of these steps.")] = 1e-3,
    method: Method = "",
    seed: Seed = 0,
    data: Data = Path("data"),
    quiet: Quiet = False,
    device: Device = "",
) -> None:
    """Generate an adapter of the run's language model for labelled texts of two classes, in a form that peft loads."""
    from ltdi.inference.adapter_run import AdapterRun
    from ltdi.inference.user_files import apart
    from ltdi.learners.peft_io import CONFIG, TENSORS, write_adapter
    from ltdi.utils.console import say

    with _command("adapt", quiet, device):
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
    quiet: Quiet = False,
    device: Device = "",
) -> None:
    """Does the condition matter? Weights for right and wrong conditions; of others' files, how alike they are."""
    from ltdi.evaluation.condition_ablation import compare_conditions, describe_conditions
    from ltdi.evaluation.weight_similarity import compare_weight_files, describe_weight_files
    from ltdi.inference.user_files import Rows
    from ltdi.utils.console import say

    with _command("audit", quiet, device), Rows(csv, json) as rows:
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
    folder: Annotated[
        Path,
        typer.Argument(help="Labelled images: a folder of classes, each a folder of images, or a table of file,label."),
    ],
    n_way: Annotated[int, typer.Option(help="Classes of a task.")] = 5,
    n_shot: Annotated[int, typer.Option(help="Images of each class that a head is made from.")] = 1,
    n_query: Annotated[int | None, typer.Option(help="Query images per class.", show_default="15")] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks are drawn.")] = 1000,
    csv: Csv = None,
    json: Json = False,
    method: Method = "",
    seed: Seed = 0,
    model: Model = None,
    quiet: Quiet = False,
    device: Device = "",
) -> None:
    """Does it pay on your images? Generated heads beside every baseline, on tasks drawn from labelled classes."""
    from ltdi.inference import comparison
    from ltdi.inference.loading import find, load_for
    from ltdi.inference.user_files import Rows
    from ltdi.utils.console import say

    with _command("compare", quiet, device), Rows(csv, json) as rows:
        rows.place(find(model), folder)
        opened = load_for(model, folder, method=method)
        found = comparison.compare(
            opened, folder, n_way=n_way, n_shot=n_shot, n_query=n_query, n_tasks=tasks, seed=seed
        )
        rows.add(found)
        rows.show(found, "{:.4f}")
        say(comparison.told_of(found))


@app.command()
def info(model: Model = None, method: Method = "", json: Json = False) -> None:
    """What a model or a run is; without one, the shipped models."""
    import pandas as pd

    from ltdi.inference.loading import find, load, shipped
    from ltdi.inference.model_files import is_model, is_run
    from ltdi.inference.user_files import Rows
    from ltdi.utils.console import show_values

    with _command("info"), Rows(None, json) as rows:
        place = find(model)
        places = [place] if model or is_run(place) or is_model(place) else [*shipped().values()] or [place]
        for each in places:
            found = load(each, method=method).info()
            if json:
                rows.add(pd.DataFrame([found]))
            else:
                show_values(found)


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(help="The data folder of a finished run.")],
    folder: Annotated[Path, typer.Argument(help="The model folder to write.")],
    name: Annotated[str, typer.Option(help="Of the model.", show_default="the folder's")] = "",
    licence: Annotated[str, typer.Option(help="Of the trained generator.")] = "unstated",
    precision: Annotated[
        str, typer.Option(help="float32, or float16 for half the size; heads of the run fit the former alone.")
    ] = "float32",
    quiet: Quiet = False,
) -> None:
    """Pack a finished run into a model folder of a few MB, which classifies without the run."""
    from ltdi.inference.pack import pack as pack_run
    from ltdi.utils.console import comment

    with _command("pack", quiet):
        packed = pack_run(run, folder, name=name, licence=licence, precision=precision)
        size = sum(file.stat().st_size for file in packed.rglob("*") if file.is_file())
        comment(f"{packed}: {size / 1e6:.1f} MB; ltdi classify <classes> <images> --model {packed}")


@app.command()
def example(
    task: Annotated[int, typer.Option(help="Which meta-test task.")] = 0,
    data: Data = Path("data"),
) -> None:
    """Write a meta-test task as folders of images, to try ``classify`` on."""
    from ltdi.inference.example_task import write_example
    from ltdi.utils.console import say

    with _command("example"):
        folder, n_way = write_example(data, task)
        where = "" if data == Path("data") else f" --model {data}"
        say(
            f"{folder}: {n_way} classes that nobody has trained on; ltdi classify {folder / 'support'}"
            f" {folder / 'query'}{where}"
        )


if __name__ == "__main__":
    app()
