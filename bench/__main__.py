"""All measurements, one script after the other, and docs/performance.md from what they found.

    python bench [--quick] [--only training,dense] [--fresh]

Each script runs alone, in a process of its own. A run that was stopped goes on where it was: what had ended is kept,
unless the code has changed since, or --fresh. A script that fails does not stop the others: its tables say so.

A full run takes more than an hour and a half on two cores, and nothing else should run on the machine meanwhile.
--quick only shows that all works; its figures mean little, go to bench/results/quick, and leave docs/performance.md
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import report
from record import ROOT, Table, commit, folder_of, load, save, write

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """A script with its arguments, and the seconds it takes on two quiet cores: in full, and quick."""

    name: str
    command: str
    seconds: float
    quick: float


JOBS = (
    Job("overhead", "overhead.py", 110, 20),
    Job("build", "build.py", 30, 20),
    Job("training-cnn", "training.py cnn", 280, 50),
    Job("training-mlp", "training.py mlp", 110, 40),
    Job("training-allocator", "training.py allocator", 130, 40),
    Job("training-precision", "training.py precision", 80, 30),
    Job("dense", "dense.py", 270, 60),
    Job("dense-contiguous", "dense.py --contiguous --depths 40", 60, 60),
    Job("depth", "memory.py", 130, 30),
    Job("fold", "fold.py", 60, 20),
    Job("inference", "inference.py", 2700, 60),
    Job("inference-bf16", "inference.py --precision bf16 --no-compile", 2400, 60),
)


def chosen(only: str) -> list[Job]:
    """The jobs whose names hold one of the words of ``only``."""
    words = [word for word in only.split(",") if word]
    jobs = [job for job in JOBS if not words or any(word in job.name for word in words)]
    if missing := [word for word in words if not any(word in job.name for job in JOBS)]:
        raise SystemExit(f"nothing is called {missing[0]!r}: there are {', '.join(job.name for job in JOBS)}")
    return jobs


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def run(job: Job, quick: bool) -> str:
    """Run a script and let it print; "" or why it failed."""
    script, *arguments = job.command.split()
    path = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, str(HERE / script), *arguments, *["--quick"] * quick]
    said: deque[str] = deque(maxlen=20)

    def pass_on(pipe: IO[str]) -> None:
        for line in pipe:
            sys.stderr.write(line)
            said.append(line)

    limit = 10 * (job.quick if quick else job.seconds) + 300
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        listener = threading.Thread(target=pass_on, args=(process.stderr,), daemon=True)
        listener.start()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"it was not done after {minutes(limit)}"
        except KeyboardInterrupt:
            process.kill()
            raise
        listener.join(5)
    lines = [line.strip() for line in said if line.strip()]
    return "" if code == 0 else (lines or [f"exit code {code}"])[-1].replace(f"{ROOT}/", "")[:300]


def tables(quick: bool) -> dict[Path, int]:
    """The tables there are, with the time of each."""
    return {path: path.stat().st_mtime_ns for path in folder_of(quick).glob("*.json") if path.name != STATE}


def note_failure(job: Job, why: str, written: list[Path], quick: bool) -> None:
    """Say in the tables of a failed script that they are not whole; in one of its own where it wrote none."""
    for path in written:
        table = load(path)
        table.failed = why
        write(table, path)
    if not written:
        save(Table(job.name, job.name, "", failed=why, command=f"python bench/{job.command}", quick=quick))


STATE = "run.json"


def begin(quick: bool, fresh: bool) -> dict:
    """What an earlier run of the same code has done, or a new beginning."""
    path = folder_of(quick) / STATE
    state = {"commit": commit(), "done": {}, "tables": []}
    if not fresh and path.exists():
        earlier = json.loads(path.read_text())
        if earlier["commit"] == state["commit"] and not state["commit"].endswith("+"):
            return earlier
    return state


def keep(state: dict, quick: bool) -> None:
    folder = folder_of(quick)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).write_text(json.dumps(state, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="to see that all works: figures mean little")
    parser.add_argument("--only", default="", help=f"some of {', '.join(job.name for job in JOBS)}, with commas")
    parser.add_argument("--fresh", action="store_true", help="begin anew where an earlier run was stopped")
    options = parser.parse_args()
    jobs, quick = chosen(options.only), options.quick
    state = begin(quick, options.fresh)
    waiting = [job for job in jobs if job.name not in state["done"]]
    for job in jobs:
        if job not in waiting:
            print(f"{job.name}: kept from before")
    estimates = {job.name: job.quick if quick else job.seconds for job in waiting}
    planned = spent = 0.0
    failures = {}
    for number, job in enumerate(waiting):
        # how much slower than expected this machine is, so far
        pace = spent / planned if planned else 1.0
        left = pace * sum(estimates[other.name] for other in waiting[number:])
        print(f"\n[{number + 1}/{len(waiting)}] {job.command}: {minutes(left)} left", flush=True)
        before, start = tables(quick), time.perf_counter()
        why = run(job, quick)
        took = time.perf_counter() - start
        planned, spent = planned + estimates[job.name], spent + took
        written = [path for path, when in tables(quick).items() if before.get(path) != when]
        if why:
            failures[job.name] = why
            note_failure(job, why, written, quick)
        else:
            state["done"][job.name] = round(took)
            state["tables"] += [path.name for path in written]
            keep(state, quick)
    if len(jobs) == len(JOBS) and not failures:
        for path in tables(quick):  # of scripts that are no more, or that failed in an earlier run
            if path.name not in state["tables"]:
                path.unlink()
        (folder_of(quick) / STATE).unlink(missing_ok=True)  # all is done: the next run begins anew
    if not quick:
        print("\nwritten:", report.make())
    for name, why in failures.items():
        print(f"{name} FAILED: {why}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
