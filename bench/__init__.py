"""Measured rows: settings × methods or variants × seeds over the stages of ``pipeline``.

``plan`` says what each cell would run, ``run`` and its neighbours measure rows, ``report`` writes the tables:
``python -m bench`` lists the commands.
"""

from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
PLAN, CELLS = BENCH / "work" / "plan", BENCH / "work" / "cells"
RUNS = ROOT / "runs"
FEW_SHOT, BASELINE = "few_shot", "baseline"
"""What the long tables have as a variant for rows of the few-shot table, and for baselines beside the variants."""
