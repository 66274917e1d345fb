"""What each of a run's methods says of the same images: python examples/compare_methods.py <data> <classes> <images>"""

import sys

import ltdi
from ltdi.trajectories.storage import names

data, classes, images = [*sys.argv[1:], *("data", "data/example/support", "data/example/query")[len(sys.argv) - 1 :]]

trained, baselines = names(ltdi.load(data).data)
for method in (trained, *baselines):
    head = ltdi.load(data, method=method).generate(classes)
    print(f"{method:20} {head.score(images):.1%} right")
