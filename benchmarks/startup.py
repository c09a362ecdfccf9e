"""Start-up time of ``dfscan --help``, compared with starting Python alone.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

REPEATS = 15


def median_s(*command: str) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    floor = median_s(sys.executable, "-c", "pass")
    ours = median_s(sys.executable, "-m", "dfscan", "--help")
    print(f"python -c pass  {floor * 1000:6.0f} ms")
    print(f"dfscan --help   {ours * 1000:6.0f} ms   {ours / floor:.1f} times python -c pass")


if __name__ == "__main__":
    main()
