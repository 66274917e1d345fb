"""Two finished runs, how a stage or the command is run on a copy of one, and how it may end."""

import importlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

from command import call
from conftest import STAGES, write_tiny

from bench.harness.stages import read_stages
from ltdi.datasets import DATASETS, glyphs
from pipeline.common import stage as stages

FOLDERS = {name: stage.folder for name, stage in read_stages().items()}
TIMED = ("timing.parquet", "metrics.json", "trajectory.png")
"""Files whose bytes hang on clocks, or on the version of a library that draws."""


class Fine(Exception):
    """The result was that of an undisturbed run."""


class Refused(Exception):
    """One line, and exit code 2."""


class Wrong(Exception):
    """Another result, and nothing was said; or more than a line."""


class Hang(BaseException):
    """It did not end."""


class World:
    """``params`` and the data folders ``runs`` of two finished runs, and what the first cached (``store``).

    ``head``, ``answers``: a head that the first made of the images ``support``, and what it says of ``query``.
    """

    def __init__(self, folder: Path, params: list[Path], runs: list[Path], store: Path) -> None:
        self.folder, self.params, self.runs, self.store = folder, params, runs, store
        self.support, self.query = runs[0] / "example" / "support", runs[0] / "example" / "query"
        self.head, self.csv = folder / "head.safetensors", folder / "answers.csv"
        assert call("example", "--task", 3, "--data", runs[0]).exit_code == 0
        assert self.classify(self.support, self.query, "--head", self.head).exit_code == 0
        self.answers = self.csv.read_text()
        self.n = 0

    @classmethod
    def make(cls, folder: Path) -> "World":
        """Of runs of different seeds."""
        os.environ |= {"LTDI_STORE": str(folder / "store"), "LTDI_DEVICE": "cpu"}
        DATASETS["glyphs"] = replace(DATASETS["glyphs"], load=partial(glyphs.load, n_classes=60))
        params = [write_tiny(folder / f"run{seed}", {"seed": seed}) for seed in (0, 1)]
        runs = [file.with_name("data") for file in params]
        for file, data in zip(params, runs):
            for stage in STAGES:
                importlib.import_module(f"pipeline.{stage}").main(file, data)
        return cls(folder, params, runs, folder / "store")

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """The first run's data folder, to be spoilt."""
        with self.place() as place:
            # links would let an attempt spoil what it is copied from
            yield Path(shutil.copytree(self.runs[0], place / "data", symlinks=True))

    @contextmanager
    def place(self) -> Iterator[Path]:
        """An empty folder."""
        self.n += 1
        place = self.folder / f"attempt{self.n}"
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def classify(self, *arguments: object, data: Path | None = None):
        self.csv.unlink(missing_ok=True)
        return call("classify", *arguments, "--csv", self.csv, "--data", data or self.runs[0])

    def stage(self, name: str, data: Path, params: Path | None = None) -> None:
        """Run a stage as its command does, and end as it ends."""
        shutil.rmtree(data / FOLDERS[name], ignore_errors=True)  # as DVC does before it runs a stage
        module = importlib.import_module(f"pipeline.{name}")
        argv, sys.argv = sys.argv, [name, "--params", str(params or self.params[0]), "--data", str(data)]
        said = io.StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                stages.run(module.main, writes=FOLDERS[name])
        except SystemExit as end:
            if end.code:
                # after what it said of its progress
                *_, last = said.getvalue().splitlines(keepends=True)
                refused(end.code, last if last.startswith("pipeline.") else said.getvalue())
        finally:
            sys.argv = argv
        if different := self.different(data, FOLDERS[name]):
            raise Wrong(f"{name} wrote another {different[0]}")
        raise Fine

    def different(self, data: Path, folder: str) -> list[str]:
        """The files of a stage that are not as the undisturbed run wrote them."""
        files = [file for file in (self.runs[0] / folder).rglob("*") if file.is_file() and file.name not in TIMED]
        names = [str(file.relative_to(self.runs[0])) for file in files]
        return [name for name in names if not same(data / name, self.runs[0] / name)]

    def judged(self, ended) -> None:
        """Of ``classify`` on the query images."""
        if ended.exit_code:
            refused(ended.exit_code, ended.output, ended)
        if self.csv.read_text() != self.answers:
            raise Wrong("other answers")
        raise Fine


def same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def refused(code: object, said: str, ended=None) -> None:
    """
    Raises:
        Refused: with one line and exit code 2.
        Wrong: otherwise; what is an exception is raised as it is.
    """
    if ended is not None and ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    if code == 2 and said.count("\n") == 1 and said.endswith("\n"):
        raise Refused(said.strip())
    raise Wrong(f"exit code {code}: {said!r}")
