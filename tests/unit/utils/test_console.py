"""How a program ends, and what it says on terminals of few characters."""

import errno
import io
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from ltdi.utils import console as consoles
from ltdi.utils import memory
from ltdi.utils.console import one_line_errors, say, show
from ltdi.utils.errors import InputError


def ended(error, capsys):
    with pytest.raises(SystemExit) as end, one_line_errors("ltdi"):
        raise error
    said = capsys.readouterr()
    assert not said.out
    return end.value.code, said.err


@pytest.mark.parametrize(
    "error, code, line",
    [
        (InputError("lower it"), 2, "ltdi: lower it\n"),
        (InputError("[/red] :smile: \x1b[31m \udcff"), 2, "ltdi: [/red] :smile: \\x1b[31m \\udcff\n"),
        (InputError("two\nlines"), 2, "ltdi: two lines\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x.csv"), 2, "ltdi: x.csv: permission denied; name"),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), 2, "ltdi: x.csv: no space left on the disk; free"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x.csv"), 2, "ltdi: x.csv: file name too long; name"),
        (MemoryError(), 2, "ltdi: more memory is needed than there is (MemoryError); lower"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "ltdi: more memory is needed than there is"),
        (OverflowError("int too large to convert"), 2, "ltdi: more memory is needed than there is"),
        (
            RuntimeError("value cannot be converted without overflow"),
            2,
            "ltdi: a number is larger than can be computed",
        ),
        (KeyboardInterrupt(), 130, "ltdi: interrupted; run the same again, what is finished stays\n"),
    ],
)
def test_what_a_user_or_the_system_does_ends_in_one_line(error, code, line, capsys):
    found, said = ended(error, capsys)
    assert found == code and said.startswith(line) and said.count("\n") == 1


def test_a_fault_of_the_program_is_traced(capsys):
    for error in (RuntimeError("mat1 and mat2 cannot be multiplied"), ValueError("x"), KeyError("x")):
        with pytest.raises(type(error)), one_line_errors("ltdi"):
            raise error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_shows_all(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with one_line_errors("ltdi"):
        say("ltdi − ridge: 0.1 ± 0.2, ×²… naïve 名 \udc80")
        show(pd.DataFrame({"naïve": ["名 − [red]"]}), "{}")
    stream.flush()
    said = stream.buffer.getvalue().decode(encoding)
    if encoding == "ascii":
        assert said.startswith("ltdi - ridge: 0.1 +- 0.2, x^2... na\\xefve \\u540d \\udc80\n")
    assert "[red]" in said


def test_the_terminal_of_whoever_has_gone_is_no_fault(repository):
    command = "from ltdi.utils.console import *\nwith one_line_errors('ltdi'):\n for _ in range(99999): say('x' * 99)"
    shell = f'"{sys.executable}" -c "{command}" | head -1'
    found = subprocess.run(["bash", "-c", shell], cwd=repository, capture_output=True, text=True)
    assert found.stdout == "x" * 99 + "\n" and "Traceback" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pipeline.evaluate", "ltdi"])
def test_an_interrupt_during_imports_is_not_traced(module, repository, tmp_path):
    command = [sys.executable, "-m", module, *(["info"] if module == "ltdi" else [])]
    env = os.environ | {"PYTHONPATH": str(repository)}
    running = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(0.6)
    running.send_signal(signal.SIGINT)
    said = running.communicate()[0].decode()
    assert running.returncode and "Traceback" not in said


def test_an_interrupt_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with one_line_errors("ltdi"):
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is before


def test_what_fits_into_no_memory_is_told_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(memory, "there_is", lambda: 2**30)
    memory.check_fits(2**28, "this", "lower it")
    with pytest.raises(InputError, match="this would take 8 GB of memory, and there are 1; lower it"):
        memory.check_fits(2**31, "this", "lower it")
    with pytest.raises(InputError, match=r"this would take 2\^\d+ GB of memory, and there are 1; lower it"):
        memory.check_fits(10**300, "this", "lower it")


def test_torchs_word_for_too_much_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert consoles._is_of_memory(error.value)
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**40, 2**40)
    assert consoles._is_of_memory(error.value)
