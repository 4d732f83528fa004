"""How much `import tfcompress` adds to importing TensorFlow and Keras.

    python benchmarks/import_time.py --runs=5

Every run is a Python process of its own that times both imports, one after the
other; process start and what else the machine does hardly matter.
"""

import json
import statistics
import subprocess
import sys

from absl import app, flags

CODE = """
import json, time
begin = time.perf_counter()
import tensorflow, keras
middle = time.perf_counter()
import tfcompress
print(json.dumps([middle - begin, time.perf_counter() - middle]))
"""

_RUNS = flags.DEFINE_integer("runs", 5, "Number of runs.", lower_bound=1)


def run():
    result = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def main(_):
    base, added = map(
        statistics.median, zip(*[run() for _ in range(_RUNS.value)], strict=True)
    )
    print(f"import tensorflow, keras  {1e3 * base:8.1f} ms")
    print(f"import tfcompress         {1e3 * added:8.1f} ms  (+{added / base:.2%})")


if __name__ == "__main__":
    app.run(main)
