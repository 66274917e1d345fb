"""``PYTHONPATH=.:tests python tests/robustness/campaign.py [--seed 0] [--only heads] [--say]``: attacks by chance on
all that reads or writes a file.

A table of what was tried and how it ended: the same result as undisturbed, one line, and what must not be: a wrong
result without a word, a traceback, a hang. No part of the suite, which has a few of each; 20 minutes on two cores.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import campaign_files
import campaign_heads
import campaign_images
import campaign_kills
import campaign_params
import campaign_system
import campaign_tables
from campaign_world import Fine, Hang, Refused, World, Wrong

FAMILIES = {
    "altered files": campaign_files,
    "crafted heads": campaign_heads,
    "images and names": campaign_images,
    "file-system faults": campaign_system,
    "params and environments": campaign_params,
    "tables with seals": campaign_tables,
    "kills": campaign_kills,
}
ENDS = ("same", "one line", "wrong", "traceback", "hang")
SECONDS = 240
"""After which an attempt hangs."""


def end_of(attempt: Callable[[], None]) -> tuple[str, str]:
    """How an attempt ended, and what was said."""

    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        attempt()
    except (Fine, Refused, Wrong, Hang) as end:
        return {Fine: "same", Refused: "one line", Wrong: "wrong", Hang: "hang"}[type(end)], str(end)
    except BaseException:  # SystemExit, interrupts and what torch raises: whatever it is, it is a trace
        return "traceback", traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "same", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="families whose names hold this")
    parser.add_argument("--say", action="store_true", help="also what every attempt said")
    options = parser.parse_args()
    counts = {name: Counter() for name in FAMILIES if options.only in name}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = World.make(Path(folder))
        for name, found in counts.items():
            for told, attempt in FAMILIES[name].attempts(world, random.Random(f"{options.seed} {name}")):
                end, said = end_of(attempt)
                found[end] += 1
                if options.say or end in ENDS[2:]:
                    print(f"{name}: {told}: {end}: {said}".encode("ascii", "backslashreplace").decode(), flush=True)
    print(f"\n| seed {options.seed} | tried | {' | '.join(ENDS)} |\n|---|{'---|' * (len(ENDS) + 1)}")
    for name, found in counts.items():
        print(f"| {name} | {sum(found.values())} | {' | '.join(str(found[end]) for end in ENDS)} |")
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(any(found[end] for found in counts.values() for end in ENDS[2:]))


if __name__ == "__main__":
    main()
