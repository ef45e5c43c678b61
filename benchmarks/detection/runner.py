"""Runs the study: every model against every set, rows into the cache, processes side by side."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.detection.audit import audit_row, price
from benchmarks.detection.cases import CASES, Case
from benchmarks.detection.data import load
from benchmarks.detection.repair import repair_row
from benchmarks.detection.rivals import Reader, rivals
from benchmarks.detection.sets import Suspect, clean_set, sets_of
from benchmarks.detection.store import Store
from benchmarks.detection.train import load_or_train

PARTS = ("audit", "rivals", "repair")
REPAIRED = (1.0, 0.05)
"""Shares of triggered samples after whose finding a repair is tried."""
SUBSET_SETS = ("triggered-100%", "triggered-5%", "triggered-1%", "fresh", "imbalance", "brightness", "dropped", "foreign-5%")


@dataclass(frozen=True)
class Job:
    case: Case
    cache: Path
    parts: tuple[str, ...] = PARTS
    few_sets: bool = False
    kept_only: bool = False


def ordered(cases: Iterable[Case]) -> list[Case]:
    """Kinds of models in turns, so that a run that is cut short has seen some of everything; of each turn the clean ones first,
    which have most sets, and those that take seconds at the very end, so that processes end together.
    """
    seen: dict[tuple[str, str, bool], int] = {}
    keyed = []
    for case in cases:
        group = (case.dataset, case.architecture, case.attack is None)
        seen[group] = seen.get(group, 0) + 1
        keyed.append(((case.dataset == "digits" or case.architecture == "mlp", seen[group], case.attack is not None), case))
    return [case for _, case in sorted(keyed, key=lambda pair: pair[0])]


def priced(case: Case, suspect: Suspect) -> bool:
    """One set of one model of each kind: the price is beside a scan that tries no repair, of two sets of full size."""
    first = next(one for one in CASES if (one.dataset, one.architecture) == (case.dataset, case.architecture))
    return case == first and suspect.name == "triggered-1%"


def run(jobs: Sequence[Job], processes: int) -> list[dict[str, Any]]:
    """All rows of all jobs, in the order of the jobs; what the cache has is not done again."""
    if processes < 2:
        return [row for job in jobs for row in rows_of(job)]
    started, found, total = time.perf_counter(), {}, 0.0
    spawn = multiprocessing.get_context("spawn")
    with one_thread_each(), spawn.Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name, rows, seconds in pool.imap_unordered(timed_rows, jobs):
            found[name] = rows
            total += seconds
            spent = time.perf_counter() - started
            print(f"{len(found):3d} of {len(jobs)}  {spent:6.0f} s  {seconds:4.0f} s of one core  ", end="")
            print(f"{name}: {in_short(rows)}", flush=True)
    print(
        f"{time.perf_counter() - started:.0f} s, {total:.0f} s of one core: {total / processes / 60:.1f} minutes of {processes}"
    )
    return [row for job in jobs for row in found[job.case.name]]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, processes that start use one thread: the libraries read these names when they are imported."""
    before = dict(os.environ)
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def timed_rows(job: Job) -> tuple[str, list[dict[str, Any]], float]:
    """The job's name, its rows and its seconds of one core."""
    started = time.process_time()
    return job.case.name, rows_of(job), time.process_time() - started


def in_short(rows: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{row['set']} {row['audit']['outcome']}" for row in rows if "audit" in row) or "done"


def rows_of(job: Job) -> list[dict[str, Any]]:
    """One row a set: what it is, and under "audit", "rivals", "repair" and "price" what was found."""
    case, cache = job.case, job.cache
    model, info = load_or_train(case, cache)
    about = {
        "case": case.name,
        "architecture": case.architecture,
        "dataset": case.dataset,
        "attack": None if case.attack is None else case.attack.kind,
        "half": case.half,
        "accuracy": info["accuracy"],
        "asr": info["asr"],
        "works": info["works"],
        "trained_s": info["seconds"],
    }
    if not job.parts:
        return [about]
    clean, _ = clean_set(case, cache)
    stores = {part: Store(cache, part, case) for part in PARTS}
    known = {part: store.rows() for part, store in stores.items()}
    read: Reader | None = None
    rows = []
    for suspect in sets_of(case, cache):
        if job.few_sets and not suspect.name.startswith(SUBSET_SETS):
            continue
        if info["works"] is False and suspect.kind == "triggered":
            continue  # the tables leave such sets out; the untouched one keeps the model's name in them
        truth = {
            "set": suspect.name,
            "kind": suspect.kind,
            "share": suspect.share,
            "samples": len(suspect.x),
            "carriers": int(suspect.triggered.sum()),
        }
        found = {part: known[part][suspect.name] for part in job.parts if suspect.name in known[part]}
        if job.kept_only:
            rows += [{**about, **truth, **found}] if "audit" in found else []
            continue
        if "audit" in job.parts and not ("audit" in found and ("repair" in found or "repair" not in job.parts)):
            found |= scanned(job, model, clean, suspect)
            for part in ("audit", "repair"):
                if part in found:
                    stores[part].add({"set": suspect.name, **found[part]})
        if "rivals" in job.parts and "rivals" not in found:
            if read is None:
                read = Reader(model, load(case.dataset, cache).held_x)
                trusted = read(clean)
            harmful = suspect.kind == "triggered"
            found["rivals"] = {"found": rivals(trusted, read(suspect.x), suspect.triggered, harmful)}
            stores["rivals"].add({"set": suspect.name, **found["rivals"]})
        rows.append({**about, **truth, **found})
    return rows


def scanned(job: Job, model: torch.nn.Module, clean: torch.Tensor, suspect: Suspect) -> dict[str, Any]:
    """The rows of one scan and, where one is measured, of its repair."""
    case = job.case
    repairing = "repair" in job.parts and suspect.kind == "triggered" and suspect.share in REPAIRED
    row, audit = audit_row(case, model, clean, suspect, repairing)
    if audit is not None and priced(case, suspect):
        row["price"] = price(model, audit, clean, suspect.x)
    found = {"audit": row}
    if "repair" in job.parts:
        found["repair"] = {"method": None}
        if repairing and row["outcome"] == "fail":
            data = load(case.dataset, job.cache)
            found["repair"] = repair_row(case, model, audit.repair, (data.held_x, data.held_y))
    return found
