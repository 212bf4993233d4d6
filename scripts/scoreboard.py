#!/usr/bin/env python3
"""Bakes the scoreboard's models at one level (Light, unless named) for size and for latency, and prints what each bake measured.

usage: scoreboard.py PROGRAM [--level LEVEL] [TASK...]

Artifacts go to $BAKEHOUSE_SCOREBOARD/baked/<task>.bakehouse-<goal>.onnx, reports beside them under reports/<task>-<goal>/.
"""

import pathlib
import shutil
import sys

import bakes


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    folder = bakes.scoreboard()
    if folder is None:
        sys.exit("The scoreboard's models are not there. Fetch them, or name their folder in BAKEHOUSE_SCOREBOARD.")
    named = sys.argv[2:]
    level = "light"
    if "--level" in named:
        at = named.index("--level")
        level = named[at + 1].lower()
        named = named[:at] + named[at + 2 :]
    tasks = named or [t for t in bakes.TASKS if (folder / "models" / f"{t}.onnx").exists()]
    rows, reasons, machine = [], [], None
    for task in tasks:
        for goal in ["size", "latency"]:
            try:
                done = bakes.bake_task(program, task, level, goal, folder / "reports" / f"{task}-{goal}", folder)
            except bakes.Failed as failure:
                rows.append([task, goal, "-", "-", "-", "error", "-", "-", "-"])
                reasons.append(str(failure))
                continue
            shutil.copy(done.folder / "model.onnx", folder / "baked" / f"{task}.bakehouse-{goal}.onnx")
            rows.append(row(done))
            reasons.extend(refusals(done))
            machine = done.report["machine"]
    header = ["model", "goal", "bytes", "nodes", "speedup [95 %]", "verdict", "candidate", "seconds", "peak MB"]
    print(bakes.table(header, rows))
    print(f"\ncommit {bakes.commit()}" + (f"; {machine['cpu']}, {machine['affinityCores']} cores, load {machine.get('loadAverage', {}).get('one')}" if machine else ""))
    for reason in reasons:
        print(f"- {reason}")


def row(done):
    speedup = done.speedup
    nodes = [m["stats"]["nodes"]["computing"] for m in (done.before, done.after)]
    peak = done.summary.get("peakRssBytes")
    return [
        done.name,
        done.goal,
        f"{done.bytes_ratio * 100:.1f} %",
        f"{nodes[0]} -> {nodes[1]}",
        "input returned" if speedup is None else f"{speedup[0]:.2f}x [{speedup[1]:.2f}, {speedup[2]:.2f}] n={speedup[3]}",
        done.summary["reason"],
        done.report["outcome"]["candidate"],
        f"{done.summary['seconds']:.1f}",
        "-" if peak is None else f"{peak / 1e6:.0f}",
    ]


def refusals(done):
    """Why candidates were not chosen, and which gates did not pass."""
    for candidate in done.report["candidates"]:
        if candidate.get("refused"):
            yield f"{done.name}, {done.goal}: {candidate['name']} ({candidate['bytes'] / done.before['bytes'] * 100:.1f} %): {candidate['refused']}"
        elif candidate["chosen"] and candidate["leftOut"]:
            yield f"{done.name}, {done.goal}: {candidate['name']} leaves {len(candidate['leftOut'])} sites in float"
    for gate in done.report["gates"]:
        if gate["verdict"] != "Pass":
            yield f"{done.name}, {done.goal}: {gate['message']}"


if __name__ == "__main__":
    main()
