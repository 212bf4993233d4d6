#!/usr/bin/env python3
"""Prints every figure that Bakehouse is measured by: target, value measured at this commit, n, and the reports it was read from.

usage: acceptance.py PROGRAM [--bakes N] [--out DIR]

Every value is computed here from report.json files and summaries that the bakes of this very run wrote; what no code can measure yet is printed as `missing`.
"""

import argparse
import collections
import json
import math
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bakes
import handoff

MISSING = "missing"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program", type=pathlib.Path)
    arguments.add_argument("--bakes", type=int, default=100, help="bakes of the batch, one at a time and four at a time; 0 leaves them out")
    arguments.add_argument("--out", type=pathlib.Path, default=bakes.ROOT / "target" / "acceptance", help="folder for the reports")
    given = arguments.parse_args()
    program = given.program.resolve()
    shutil.rmtree(given.out, ignore_errors=True)
    results, failures = single_bakes(program, given.out)
    batches = {jobs: batch(program, jobs, given.bakes) for jobs in (1, 4)} if given.bakes else {}
    print(page(program, results, failures, batches))


def single_bakes(program, out):
    """Each model at Conservative, at Light for size and for latency, and at Medium for latency."""
    folder = bakes.scoreboard()
    models = [(example, lambda *a, e=example: bakes.bake_example(program, e, *a)) for example in bakes.EXAMPLES]
    for task in bakes.TASKS if folder else []:
        if (folder / "models" / f"{task}.onnx").exists():
            models.append((task, lambda *a, t=task: bakes.bake_task(program, t, *a, folder)))
    results, failures = [], []
    for name, bake in models:
        for level, goal in [("conservative", "balanced"), ("light", "size"), ("light", "latency"), ("medium", "latency")]:
            try:
                results.append(bake(level, goal, out / f"{name}-{level}-{goal}"))
            except bakes.Failed as failure:
                failures.append((name, level, goal, str(failure)))
    return results, failures


class Batch:
    """Many bakes of the examples in one call of the program."""

    def __init__(self, jobs, wall, summaries):
        self.jobs, self.wall, self.summaries = jobs, wall, summaries
        self.seconds = [s["seconds"] for s in summaries]
        self.errors = sum("folder" not in s for s in summaries)
        self.peaks = [s["peakRssBytes"] for s in summaries if s.get("peakRssBytes")]

    @property
    def per_minute(self):
        return len(self.summaries) / self.wall * 60

    def quantile(self, q):
        ordered = sorted(self.seconds)
        return ordered[max(math.ceil(q * len(ordered)), 1) - 1]

    def variation(self):
        """Coefficient of variation of the seconds within each example, by example."""
        by_example = collections.defaultdict(list)
        for i, seconds in enumerate(self.seconds):
            by_example[bakes.EXAMPLES[i % len(bakes.EXAMPLES)]].append(seconds)
        return {e: statistics.stdev(s) / statistics.mean(s) for e, s in by_example.items() if len(s) > 1}

    def best_rate(self, window=10):
        """Bakes a minute over the quickest `window` in a row; only where they ran one after the other."""
        if self.jobs != 1 or len(self.seconds) < window:
            return None
        return max(window / sum(self.seconds[i : i + window]) * 60 for i in range(len(self.seconds) - window + 1))

    @property
    def source(self):
        return f"batch of {len(self.summaries)}, --jobs {self.jobs}"


def batch(program, jobs, count):
    """Bakes the six examples in turn, `count` times in all, each into a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for i in range(count):
            example = bakes.ROOT / "examples" / bakes.EXAMPLES[i % len(bakes.EXAMPLES)]
            text = (example / "bakejob.yaml").read_text().replace("uri: out/", f"uri: {scratch}/out-{i}")
            for name in ["model.onnx", "calibration.npz", "training.npz", "validation.npz"]:
                text = text.replace(f"uri: {name}", f"uri: {example / name}")
            files.append(pathlib.Path(scratch) / f"{i:04}.yaml")
            files[-1].write_text(text)
        print(f"baking a batch of {count}, {jobs} at a time", file=sys.stderr, flush=True)
        began = time.monotonic()
        run = subprocess.run([program, "bake", "--json", "--quiet", "--jobs", str(jobs), *files], capture_output=True, text=True)
        wall = time.monotonic() - began
        try:
            return Batch(jobs, wall, json.loads(run.stdout))
        except ValueError:
            print(f"no result of the batch: {bakes.last_line(run.stderr)}", file=sys.stderr)
            return None


def page(program, results, failures, batches):
    numbers = {id(b): f"R{i}" for i, b in enumerate(results, 1)}
    rows = []

    def add(figure, target, value, met, n, source):
        rows.append([figure, target, value, {True: "yes", False: "no", None: "-"}[met], n, source])

    def missing(figure, target, why):
        add(figure, target, f"{MISSING} ({why})", None, "-", "-")

    def cite(of):
        return ", ".join(numbers[id(b)] for b in of)

    def per_model(figure, target, of, value, met, show=lambda v: f"{v:.3g}"):
        """One row over many bakes: every model's value, and how many meet the target."""
        pairs = [(b, v) for b in of if (v := value(b)) is not None]
        if not pairs:
            return missing(figure, target, "no bake has it")
        good = [met(v) for _, v in pairs]
        listed = ", ".join(f"{b.name} {show(v)}" for b, v in pairs)
        add(figure, target, f"{sum(good)} of {len(pairs)} models: {listed}", all(good), len(pairs), cite([b for b, _ in pairs]))

    lossless = [b for b in results if b.level == "conservative"]
    size = [b for b in results if b.goal == "size"]
    latency = [b for b in results if b.goal == "latency" and b.level == "light"]
    medium = [b for b in results if b.level == "medium"]
    light = size + latency
    percent = lambda v: f"{v * 100:.1f} %"
    signed = lambda v: f"{v * 100:+.1f} %"

    # An input that is returned unchanged has no speedup: it counts as a miss, not as a measurement of 1.
    interval = lambda s: f"{s[0]:.2f}x [{s[1]:.2f}, {s[2]:.2f}] n={s[3]}" if s else "none, input returned"
    per_model("speedup, goal Latency", ">= 1.5x (1.2-2.8x)", latency, lambda b: b.speedup or (), lambda s: bool(s) and s[0] >= 1.5, interval)
    per_model("speedup, Medium, goal Latency", ">= 1.5x (1.2-2.8x)", medium, lambda b: b.speedup or (), lambda s: bool(s) and s[0] >= 1.5, interval)
    per_model("speedup, goal Latency: not slower", "upper end >= 1x", latency, lambda b: b.speedup, lambda s: s[2] >= 1.0, interval)
    per_model("memory reduction: bytes of the file, goal Size", ">= 20 % (20-60 %)", size, lambda b: 1 - b.bytes_ratio, lambda v: v >= 0.2, percent)
    per_model("memory reduction: a fresh process above idle, goal Size", ">= 20 % (20-60 %)", size, memory_reduction, lambda v: v >= 0.2, percent)
    for kind, words in [("all", "all elements"), ("nonZero", "non-zero elements; codes that round to zero count as zero")]:
        count = lambda model, kind=kind: model["stats"]["parameters"][kind]
        less = lambda b, count=count: 1 - count(b.after) / count(b.before) if count(b.before) else None
        per_model(f"parameter reduction, goal Size: {words}", ">= 15 % (15-45 %)", size, less, lambda v: v >= 0.15, signed)
    nodes = lambda b: b.after["stats"]["nodes"]["computing"] / b.before["stats"]["nodes"]["computing"] - 1
    per_model("graph nodes, Conservative", "-15..-35 %", lossless, nodes, lambda v: v <= -0.15, signed)
    missing("memory operations per inference", "-20..-40 %", "no executed plan reports its traffic")
    fusions = lambda b: sum(len(p.get("fused", [])) for p in b.report["passes"] if p["outcome"] == "Applied")
    per_model("fusions in the saved graph, Conservative", "3-8 per model", lossless, fusions, lambda v: v >= 3, str)
    engine = lambda b: sum(b.report["engineFusion"]["fused"].values()) if b.report.get("engineFusion") else None
    per_model("fusions by the engine at load, listed apart", "told", lossless, engine, lambda v: True, str)

    retention = lambda b: (q := (b.report.get("quality") or {}).get("accuracy_retention")) and q["lower"] is not None and (q["estimate"], q["lower"]) or None
    per_model("accuracy retention, Medium, lower bound", ">= 95 %", medium, retention, lambda v: v[1] >= 0.95, lambda v: f"{v[0]:.4f} (>= {v[1]:.4f})")
    per_model("accuracy retention, Light, lower bound", ">= 95 %", light, retention, lambda v: v[1] >= 0.95, lambda v: f"{v[0]:.4f} (>= {v[1]:.4f})")

    throughput(batches, add, missing)

    tail = lambda b: next(iter(b.after["latency"]), {}).get("summary", {}).get("p99")
    per_model("inference p99, goal Latency", "< 50 ms", latency, tail, lambda v: v < 0.05, lambda v: f"{v * 1e3:.3g} ms")
    peak = lambda b: b.after["freshProcess"].get("peakRssBytes")
    per_model("inference: peak memory of a fresh process, goal Size", "< 100 MB", size, peak, lambda v: v < 100e6, lambda v: f"{v / 1e6:.0f} MB")

    for level, target in [("conservative", 1.0), ("light", 1.0), ("medium", 0.95)]:
        of = [b for b in results if b.level == level]
        lost = sum(1 for _, at, _, _ in failures if at == level)
        total = len(of) + lost
        if total:
            good = sum(b.ended_well for b in of)
            bad = [f"{b.name}/{b.goal} {b.summary['reason']}" for b in of if not b.ended_well] + [f"{n}/{g} error" for n, at, g, _ in failures if at == level]
            add(f"pass rate of level {level.capitalize()}", percent(target), f"{percent(good / total)}" + (f" ({', '.join(bad)})" if bad else ""), good / total >= target, total, cite(of))
        else:
            missing(f"pass rate of level {level.capitalize()}", percent(target), "no bake")
    missing("pass rate of level Aggressive", "90.0 %", "the level is not built")
    missing("memory efficiency: peak RSS / request", "> 70 %", "needs a pod with a request")
    missing("CPU efficiency: CPU seconds / (wall x request)", "> 60 %, peak < 70 % of the node", "needs a pod with a request")
    missing("one-hour soak", "no growth, no error", "not run here")
    missing("recovery after a restart", "< 1 s", "needs the controller")
    handed_over(program, add, missing)

    passes = lambda b: sum(p["seconds"] for p in b.report["passes"])
    per_model("graph passes without their checks, Conservative", "< 0.1 s", lossless, passes, lambda v: v < 0.1, lambda v: f"{v:.3f} s")
    start_up(program, add)
    return "\n\n".join(
        ["# Acceptance", heading(results), bakes.table(["figure", "target", "measured", "met", "n", "source"], rows), listing(results, numbers), unbaked(failures)]
    ).strip()


def memory_reduction(bake):
    """Working memory of a fresh process (peak above what it held before the model was read), baked against input."""
    above = [m["freshProcess"]["peakRssBytes"] - m["freshProcess"]["idleRssBytes"] for m in (bake.before, bake.after) if m["freshProcess"].get("peakRssBytes") and m["freshProcess"].get("idleRssBytes")]
    return 1 - above[1] / above[0] if len(above) == 2 and above[0] > 0 else None


def throughput(batches, add, missing):
    """Rates, durations and memory of the batches."""
    one, four = batches.get(1), batches.get(4)
    if one:
        n, source = len(one.summaries), one.source
        add("models a minute, sustained", ">= 15", f"{one.per_minute:.1f}", one.per_minute >= 15, n, source)
        best = one.best_rate()
        if best is None:
            missing("models a minute, best ten in a row", "told (28.3 claimed)", "fewer than ten bakes")
        else:
            add("models a minute, best ten in a row", "told (28.3 claimed)", f"{best:.1f}", None, 10, source)
        mean = statistics.mean(one.seconds)
        add("duration of a bake, mean", "< 2 s", f"{mean:.2f} s", mean < 2, n, source)
        for q, most in [(0.95, 4), (0.99, 8)]:
            add(f"duration of a bake, p{q * 100:.0f}", f"< {most} s over >= 100", f"{one.quantile(q):.2f} s", one.quantile(q) < most and n >= 100, n, source)
        variation = one.variation()
        if variation:
            add("CV of the duration within each example", "< 20 %", ", ".join(f"{e} {v * 100:.1f} %" for e, v in variation.items()), max(variation.values()) < 0.2, n, source)
        else:
            missing("CV of the duration within each example", "< 20 %", "too few bakes")
    else:
        for figure, target in [("models a minute, sustained", ">= 15"), ("duration of a bake, mean, p95, p99, CV", "< 2 s, < 4 s, < 8 s, < 20 %")]:
            missing(figure, target, "no batch was run")
    if one and four:
        loss = 1 - four.per_minute / one.per_minute
        add("models a minute, 4 at a time, against 1 at a time", "<= 9 % less", f"{four.per_minute:.1f} ({-loss * 100:+.0f} %)", loss <= 0.09, len(four.summaries), four.source)
    else:
        missing("models a minute, 4 at a time, against 1 at a time", "<= 9 % less", "no batch was run")
    if four:
        share = four.errors / len(four.summaries)
        add("4 concurrent jobs: errors", "< 2 %", f"{share * 100:.1f} %", share < 0.02, len(four.summaries), four.source)
        if len(four.peaks) > 20:
            early, late = max(four.peaks[:20]), max(four.peaks[20:])
            add("4 concurrent jobs: peak memory of bakes 1-20 and of the rest", "no growth", f"{early / 1e6:.0f} MB, {late / 1e6:.0f} MB", late <= early * 1.05, len(four.peaks), four.source)
        else:
            missing("4 concurrent jobs: growth of memory", "none", "fewer than 21 bakes")
    else:
        missing("4 concurrent jobs: errors, growth of memory", "< 2 %, none", "no batch was run")
    peaks = [(p, b.source) for b in (one, four) if b for p in b.peaks]
    if peaks:
        most, source = max(peaks)
        add("peak memory of a bake", "< 2 GB", f"{most / 1e6:.0f} MB", most < 2e9, len(peaks), source)
    else:
        missing("peak memory of a bake", "< 2 GB", "no batch was run")


def handed_over(program, add, missing):
    """The whole way of a package, each example by itself."""
    figure, target = "phase 5 to phase 7: package, upload, bake, promotion, verification", "< 5 s"
    try:
        found, where = handoff.ways(program)
    except bakes.Failed as failure:
        return missing(figure, target, str(failure))
    sums = {example: sum(seconds.values()) for example, seconds in found.items()}
    steps = ", ".join(f"{step} {max(s[step] for s in found.values()):.2f}" for step in handoff.STEPS)
    value = ", ".join(f"{example} {total:.2f} s" for example, total in sums.items()) + f"; the longest steps: {steps}"
    add(figure, target, value, max(sums.values()) < 5, len(sums), f"timed here, between {where}")


def start_up(program, add):
    seconds = []
    for _ in range(50):
        began = time.monotonic()
        subprocess.run([program, "--version"], capture_output=True, check=True)
        seconds.append(time.monotonic() - began)
    middle = statistics.median(seconds)
    add("start of the program (`--version`), median", "< 20 ms", f"{middle * 1e3:.1f} ms", middle < 0.02, len(seconds), "timed here")


def heading(results):
    lines = [f"commit {bakes.commit()}"]
    if results:
        machine = results[0].report["machine"]
        load = machine.get("loadAverage") or {}
        facts = [machine["cpu"], machine["arch"], f"{machine['affinityCores']} of {machine['logicalCores']} cores", f"{machine['physicalMemory'] / 2**30:.0f} GiB", f"kernel {machine['kernel']}"]
        facts.append("load " + (f"{load['one']:.1f} at the first bake" if load else "unknown"))
        lines.append("machine " + ", ".join(facts))
        engines = sorted({f"{b.report['engine']['name']} {b.report['engine']['version']}" for b in results})
        lines.append("engine " + ", ".join(engines))
    else:
        lines.append(f"machine {platform.processor() or platform.machine()}")
    return "  \n".join(lines)


def listing(results, numbers):
    """Which report each number stands for, by digest."""
    rows = [[numbers[id(b)], f"{b.name}, {b.level}, {b.goal}", b.summary["reason"], b.report["outcome"]["candidate"], b.digest, b.folder / "report.json"] for b in results]
    return bakes.table(["report", "bake", "ended", "candidate", "sha256", "file"], rows) if rows else ""


def unbaked(failures):
    return "\n".join(f"- no artifact: {said}" for *_, said in failures)


if __name__ == "__main__":
    main()
