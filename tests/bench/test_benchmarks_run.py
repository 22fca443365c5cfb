"""One quick pass over every benchmark, so that none rots: nothing is timed, and no figure is looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_benchmark_runs() -> None:
    files = sorted(path.name for path in (ROOT / "bench").glob("bench_*.py"))
    assert files
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-disable", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "120"})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    ran = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("bench/")}
    assert sorted(ran) == [f"bench/{name}" for name in files], done.stdout
    assert "skipped" not in done.stdout
