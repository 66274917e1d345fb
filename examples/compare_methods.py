"""What each of a model's methods says of the same images: python examples/compare_methods.py <model> <classes> <images>

<model> is a shipped model's name, a model folder, or the data folder of a run.
"""

import sys

import ltdi

model, classes, images = [*sys.argv[1:], *("data", "data/example/support", "data/example/query")[len(sys.argv) - 1 :]]

for method in ltdi.load(model).names:
    head = ltdi.load(model, method=method).generate(classes)
    print(f"{method:20} {head.score(images):.1%} right")
