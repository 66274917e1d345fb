"""Feature extractors, frozen once trained: images (M, channels, height, width) in [0, 1] -> features (M, F) >= 0."""

from ltdi.bodies.conv4 import Conv4

BODIES = {"conv4": Conv4}
