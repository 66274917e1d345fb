"""Measured rows: settings × methods or variants × seeds over the stages of ``pipeline``.

``conf/`` says what is measured, ``harness/`` runs the stages and keeps rows, the other folders measure, and
``harness/report.py`` renders all tables by the templates of ``conf/tables/``. ``python -m bench`` lists the commands.
"""

from pathlib import Path

BENCH = Path(__file__).parent
CONF, RESULTS = BENCH / "conf", BENCH / "results"
ROOT = BENCH.parent
CELLS = BENCH / "work" / "cells"
RUNS = ROOT / "runs"
FEW_SHOT, BASELINE = "few_shot", "baseline"
"""The ``variant`` of rows of the few-shot table in the long tables, and of baselines beside the variants."""
