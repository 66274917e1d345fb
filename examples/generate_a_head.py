"""A head for new classes from a few images each, without training: python examples/generate_a_head.py <data> <classes>
<images>

After `make repro` and `ltdi example`, the defaults are a task of that run.
"""

import sys

import ltdi

data, classes, images = [*sys.argv[1:], *("data", "data/example/support", "data/example/query")[len(sys.argv) - 1 :]]

run = ltdi.load(data)
head = run.generate(classes)
answers = head.classify(images)
print(answers.to_string(index=False))
print(f"{head.score(images):.1%} right")
head.save("head.safetensors")
assert run.load_head("head.safetensors").classify(images).equals(answers)
