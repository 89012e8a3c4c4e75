#!/usr/bin/env bash
# safetensors 0.8.0, NumPy 2.3.5: `safetensors.numpy.save_file` of an array that is not in C order, such as `weight.T`
# or every second column, writes the memory behind the array under the array's shape. Nothing warns, the file is valid,
# and reading it gives other numbers in the right shape.
#
# A good guess would be what 0.7.0 does: the elements in C order, whatever the strides. Weights pass through a transpose
# wherever one library keeps [out, in] and another [in, out], so this is where it bites. `np.ascontiguousarray` first
# helps.
#
# Seen: 0.7.0 reads back [[0, 3], [1, 4], [2, 5]]; 0.8.0 reads back [[0, 1], [2, 3], [4, 5]].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 0.7.0 0.8.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" numpy==2.3.5
    "$work/$version/bin/python" - "$version" "$work/x.safetensors" <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

version, path = sys.argv[1:]
weight = np.arange(6, dtype=np.float32).reshape(2, 3)
cases = {"transposed": weight.T, "columns": weight[:, ::2], "fortran": np.asfortranarray(weight)}
save_file(cases, path)
read = load_file(path)
print(version, "transposed:", read["transposed"].tolist())
as_written = {name: np.array_equal(read[name], array) for name, array in cases.items()}
assert all(as_written.values()) == (version == "0.7.0"), as_written
assert not any(as_written.values()) == (version == "0.8.0"), as_written
in_order = {name: np.ascontiguousarray(array) for name, array in cases.items()}
save_file(in_order, path)
assert all(np.array_equal(load_file(path)[name], array) for name, array in cases.items())
PYTHON
done
