"""Measured rows: settings × variants × seeds over the stages of ``pipeline``, one long table."""

from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
PLAN, CELLS = BENCH / "work" / "plan", BENCH / "work" / "cells"
RUNS = ROOT / "runs"
