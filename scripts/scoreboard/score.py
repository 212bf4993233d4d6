"""Scores the artifacts of one task against fp32 on ONNX Runtime: true metric, agreement, cosine, bytes, CPU time of one thread. Runs in the scoreboard's environment.

usage: score.py TASK NAME=FILE...    prints one JSON line: {evaluation: {...}, rows: {NAME: {...}}}; `fp32` is always among the names.
"""

import hashlib
import json
import pathlib
import statistics
import sys
import time

import numpy as np
import onnxruntime

from scoreboard import place, spread, tasks

# Outputs are computed with two threads, on any machine; latency is measured with one.
QUALITY_THREADS = 2
WARM_UP = 3
# One measurement runs the model at least so often and so long.
RUNS, LASTS = 2, 0.012
# Two loads of one graph differ by some percent for as long as they live. So all artifacts are loaded so many times, and intervals are over loads, not over runs.
LOADS = 6
# For each load, so many rounds over all artifacts, the most of them unless the time is over.
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 3, 15, 2.5


def main():
    name, files = sys.argv[1], dict(pair.split("=", 1) for pair in sys.argv[2:])
    onnxruntime.set_default_logger_severity(3)
    task = tasks.TASKS[name]()
    models = {"fp32": str(place.model(name)), **files}
    rows, reference = {}, None
    for variant, file in models.items():
        # Whatever a runtime raises at an artifact is that artifact's row.
        try:
            outputs = run(session(file, QUALITY_THREADS), task.evaluation)
            found = Answers(task, outputs)
            if reference is None:
                reference = found
            rows[variant] = {"error": None, "bytes": pathlib.Path(file).stat().st_size, **quality(task, found, reference)}
        except Exception as error:
            if variant == "fp32":
                raise
            rows[variant] = {"error": f"{type(error).__name__}: {error}"}
    scored = {variant: file for variant, file in models.items() if not rows[variant]["error"]}
    for variant, figures in latency(scored, task.timed).items():
        rows[variant].update(figures)
    print(json.dumps({"evaluation": evaluation(task), "rows": rows}))


def evaluation(task):
    """What was scored on, and its digest: figures of other samples are not compared."""
    digest = hashlib.sha256()
    for feed in task.evaluation:
        for name in sorted(feed):
            digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return {"metric": task.says, "agreement": task.agrees_by, "sha256": digest.hexdigest()}


def session(file, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(session, feeds):
    """The first output on each feed."""
    return [np.asarray(session.run(None, feed)[0]) for feed in feeds]


class Answers:
    """What a model said on the evaluation feeds, and for each sample whether it is right, where that is known."""

    def __init__(self, task, outputs):
        self.outputs, self.joined = outputs, np.concatenate(outputs)
        self.right = None if task.correct is None else np.asarray(task.correct(self.joined), np.float64)


def quality(task, found, reference):
    return {
        "metric": None if found.right is None else metric(found.right, reference.right),
        "agreement": agreement(task, found.joined, reference.joined),
        "cosine": cosine(found.outputs, reference.outputs),
    }


def metric(right, right_before):
    """The share that is right. Its interval is that of the difference to fp32 on the same samples, which is all that a bake can change."""
    return around(float(right.mean()), spread.mean(right - right_before))


def around(value, interval):
    """The interval, moved to `value`."""
    return {**interval, "value": value, **{end: value + interval[end] - interval["value"] for end in ("lower", "upper")}}


def agreement(task, outputs, reference):
    """Share or correlation; its interval is only taken where nothing else is asked of a model, for it is costly."""
    if task.correct is not None:
        return {"value": task.agreement(outputs, reference)}
    return spread.jackknife(len(outputs), lambda kept: task.agreement(outputs[kept], reference[kept]))


def cosine(outputs, reference):
    """Cosine of each sample's outputs with those of fp32, averaged over a feed, then over feeds. Outputs of another shape count as 0."""
    feeds, samples = [], []
    for one, other in zip(outputs, reference):
        if one.shape != other.shape:
            of_feed = np.zeros(len(other))
        else:
            a, b = (np.asarray(rows, np.float64).reshape(len(rows), -1) for rows in (one, other))
            if a.shape[1] == 1:  # one value per sample: the whole trace is compared
                a, b = a.T, b.T
            of_feed = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-12)
        feeds.append(float(np.mean(of_feed)))
        samples += of_feed.tolist()
    return around(float(np.mean(feeds)), spread.mean(samples))


def latency(models, feed):
    """Milliseconds of CPU time a run takes, and how many times faster than fp32 that is: medians over loads of medians over rounds."""
    milliseconds, speedups = ({variant: [] for variant in models} for _ in range(2))
    for _ in range(LOADS):
        took = rounds({variant: session(file, 1) for variant, file in models.items()}, feed)
        for variant, seconds in took.items():
            milliseconds[variant].append(statistics.median(seconds) * 1e3)
            speedups[variant].append(statistics.median(before / after for before, after in zip(took["fp32"], seconds)))
    return {variant: {"milliseconds": spread.median(milliseconds[variant]), "speedup": spread.median(speedups[variant])} for variant in models}


def rounds(sessions, feed):
    """Seconds of a run in each round. All artifacts take turns in a round, so that what a busy machine does to one it does to all."""
    for each in sessions.values():
        for _ in range(WARM_UP):
            each.run(None, feed)
    took = {variant: [] for variant in sessions}
    began = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - began > SECONDS:
            break
        for variant, each in sessions.items():
            took[variant].append(measured(each, feed))
    return took


def measured(session, feed):
    """Seconds of this thread's CPU time for one run. One run before them finds the caches full of other artifacts, and does not count."""
    session.run(None, feed)
    began, cpu, runs = time.perf_counter(), time.thread_time(), 0
    while runs < RUNS or time.perf_counter() - began < LASTS:
        session.run(None, feed)
        runs += 1
    return (time.thread_time() - cpu) / runs


if __name__ == "__main__":
    main()
