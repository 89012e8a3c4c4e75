"""Tells which digit is in an image, with weights that are a sum of two tasks.

python quickstart.py BASIS BASE HEADS CLASSES IMAGE
"""

import sys

# [quickstart] README shows what stands between these marks.
import taskbasis


def classify(folder, base, heads, classes, image):
    basis = taskbasis.open(folder, base)
    encoder = taskbasis.Encoder(basis)
    head = taskbasis.Head(heads, "MNIST", classes)
    weights = basis.weights(0.8 * basis["MNIST"] + 0.2 * basis["OptDigits"])  # or of "MNIST@0.8 + OptDigits@0.2"
    for best in taskbasis.classify(encoder, head, image, weights)[0]:
        print(f"{best.name:10} {best.probability:.1%}")
# [/quickstart]


if __name__ == "__main__":
    classify(*sys.argv[1:])
