"""The stages, one module each: files, params, clocks and progress live here and nowhere below."""

import signal
import sys

if sys.argv[0] == "-m":
    # a stage as a command: its imports take seconds, and an interrupt during them is no fault to trace
    signal.signal(signal.SIGINT, signal.SIG_DFL)
