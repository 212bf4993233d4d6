"""What Bakehouse makes of a task, read from its report."""

import shutil
import statistics
import subprocess
import time

import bakes
from scoreboard import place

GOALS = ["size", "latency"]

# Gates in place of the default ones where another thing is asked of a model than they keep. Of opennsfw its ranking is asked: its outputs are probabilities from 1e-9 to 0.2,
# and their cosine, concordance and distribution hang on the few largest, whatever the rank of all others. Features keep their default gate.
GATES = {"opennsfw": [("AccuracyRetention", "0.7"), ("OutputConsistency", "0.7"), ("DistributionSimilarity", "0.7")]}

# The bake of such a model with the default gates, for Latency: shown beside the others, and not judged.
BY_DEFAULT_GATES = "bakehouse-default-gates"

# What has no counterpart in a candidate of ONNX Runtime's MinMax. The seconds of whole bakes have it, and what was tried and rolled back.
REPAIRS = ["equalise", "round-weights", "bias-correction"]


def name(goal):
    return f"bakehouse-{goal}"


def rows(program, task, level, limit):
    """The rows of a task by name: one for each goal, and one by the default gates where the task has others."""
    made = {name(goal): bake(program, task, level, goal, name(goal), GATES.get(task, ()), limit) for goal in GOALS}
    if task in GATES:
        made[BY_DEFAULT_GATES] = bake(program, task, level, "latency", BY_DEFAULT_GATES, (), limit)
    return made


def bake(program, task, level, goal, row, gates, limit):
    """One row: how the bake ended and what it took. The artifact lies where `place.baked` says, unless the row has an error."""
    artifact = place.baked(task, row)
    artifact.unlink(missing_ok=True)
    try:
        done = bakes.bake_task(program, task, level, goal, place.REPORTS / f"{task}-{row}", place.FOLDER, limit, gates)
    except bakes.Failed as failure:
        return {"error": str(failure)}
    shutil.copyfile(done.folder / "model.onnx", artifact)
    return {
        "error": None,
        "reason": done.summary["reason"],
        "candidate": done.report["outcome"]["candidate"],
        "engine": " ".join(done.report["engine"][part] for part in ("name", "version")),
        "missed": [gate["message"] for gate in done.report["gates"] if gate["verdict"] != "Pass"],
        "seconds": done.summary["seconds"],
        "peakBytes": done.summary.get("peakRssBytes"),
        "candidates": len(done.report["candidates"]),
        "search": search(done.report),
        "graphSeconds": graph_seconds(done.report),
        "static": static(done.report),
    }


def graph_seconds(report):
    """Seconds of the lossless passes. The report lists those of the chosen candidate behind them."""
    lossy = {p["name"] for candidate in report["candidates"] for p in candidate["passes"]}
    return sum(p["seconds"] for p in report["passes"] if p["name"] not in lossy)


def search(report):
    """What the search ran: models, and seconds. None where there was none."""
    ran = report.get("search")
    return ran and {"models": ran["judged"] + ran["glanced"], "seconds": ran["seconds"]}


def static(report):
    """What one static candidate costs, repairs aside: the calibration, and the passes of the chosen candidate if a static one is among them, else of the first that has one.
    None where the report does not say."""
    calibration = report.get("calibration")
    made = [c for c in report["candidates"] if any(p["name"] == "static-int8" and p["outcome"] == "Applied" for p in c["passes"])]
    if calibration is None or not made:
        return None
    candidate = next((c for c in made if c["chosen"]), made[0])
    return {
        "candidate": candidate["name"],
        "samples": calibration["samples"],
        "tensors": calibration["tensors"],
        "calibrationSeconds": calibration["seconds"],
        "passSeconds": sum(p["seconds"] for p in candidate["passes"] if p["outcome"] == "Applied" and p["name"] not in REPAIRS),
    }


def start_seconds(program, times=30):
    """Median seconds from starting the program to its end, doing nothing."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def version(program):
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def levels(program):
    """The levels that this program has built: a dry run refuses the others by name."""
    example = bakes.ROOT / "examples" / "mlp" / "bakejob.yaml"
    built = []
    for level in ["conservative", "light", "medium", "aggressive", "maximum"]:
        run = subprocess.run([program, "bake", "--dry-run", "--level", level, "-f", example], capture_output=True, text=True)
        if run.returncode == 0:
            built.append(level)
    return built

