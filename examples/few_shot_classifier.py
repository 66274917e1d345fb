"""Classify images of classes of one's own, without a run: python examples/few_shot_classifier.py <classes> <images>

<classes> holds a folder of images for each class, or is a table of file,label.
"""

import sys

from ltdi import FewShotClassifier

classes, images = [*sys.argv[1:], *("data/example/support", "data/example/query")[len(sys.argv) - 1 :]]

classifier = FewShotClassifier().fit_folder(classes)
labels, probabilities = classifier.predict_top_k(images, 2)
for label, probability in zip(labels, probabilities):
    print("  ".join(f"{name} {share:.2f}" for name, share in zip(label, probability)))
print(f"{classifier.score(images):.1%} right")

classifier.save("head.safetensors")
assert (FewShotClassifier.load("head.safetensors").predict(images) == labels[:, 0]).all()
