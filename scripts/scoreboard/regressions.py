"""Compares the figures of this run with the committed ones: what is worse by more than its own spread is a regression."""

import math

from scoreboard import machine, ours, targets

# Of what is measured once in a run, and so has no spread of its own, this much more is worse. The search listens to a clock, so that it may end in another candidate, or
# try more of them: two runs of one program differ by most of this.
MORE = {"bytes": 1.1, "peakBytes": 1.5, "seconds": 1.5}
# An artifact is held to what its goal is about.
OF_GOAL = {"size": "bytes", "latency": "speedup"}
# A load of so much per core is other people's work.
BUSY = 0.5
WELL = ("Baked", "NoImprovement")


def compare(now, before):
    """(regressions, notes): sentences on what is worse, and on what could not be compared."""
    if before is None:
        return [], ["No figures are committed yet: there is nothing to compare with."]
    if now["level"] != before["level"]:
        return [], [f"The committed figures are of level {before['level']}: nothing is compared."]
    counted, notes = comparable(now["machine"], before["machine"])
    worse = []
    for task, found in now["tasks"].items():
        known = before["tasks"].get(task)
        if known is None:
            notes.append(f"{task}: not among the committed figures.")
        elif (found["model"]["sha256"], found["evaluation"]["sha256"]) != (known["model"]["sha256"], known["evaluation"]["sha256"]):
            notes.append(f"{task}: another model or other samples than the committed figures: not compared.")
        else:
            for goal in ours.GOALS:
                name, others = ours.name(goal), {figure for other, figure in OF_GOAL.items() if other != goal}
                figures = (counted | targets.quality(task)) - others
                worse += rows(f"{task}, {name}", found["rows"].get(name), known["rows"].get(name), figures)
    known = {(cell["example"], cell["level"]): cell for cell in before["matrix"]}
    for cell in now["matrix"]:
        worse += cells(f"{cell['example']} at {cell['level']}", cell, known.get((cell["example"], cell["level"])), counted)
    return worse, notes


def comparable(now, before):
    """(figures that are compared whatever the model, notes on those that are not)."""
    if not machine.same_cpu(now, before):
        return {"bytes"}, [f"The committed figures were taken on {before['cpu']}: speedups, seconds and peaks are not compared."]
    # Speedups come from CPU time, all artifacts in turn; a bake's seconds are by the clock on the wall, which other work drives.
    if max(now["load"] / now["cores"], before["load"] / before["cores"]) > BUSY:
        return {"bytes", "speedup", "peakBytes"}, ["One of the two runs began on a busy machine: seconds of bakes, and speedups of the examples, are not compared."]
    return {"bytes", "speedup", "peakBytes", "seconds"}, []


def rows(name, now, before, counted):
    """Regressions of one artifact."""
    if before is None or before["error"]:
        return []
    if now is None or now["error"]:
        return [f"{name}: no artifact any more: {now['error'] if now else 'it was not baked'}"]
    worse = []
    for figure in sorted(counted):
        worse += more(name, figure, now, before) if figure in MORE else lower(name, figure, now[figure], before[figure])
    return worse


def cells(name, now, before, counted):
    """Regressions of one example at one level."""
    if before is None or before["error"] or before["reason"] not in WELL:
        return []
    if now["error"] or now["reason"] not in WELL:
        return [f"{name}: ended well before, now {now['error'] or now['reason']}"]
    worse = lower(name, "retention", now["retention"], before["retention"])
    if now["share"] > before["share"] * MORE["bytes"]:
        worse.append(f"{name}: size {before['share'] * 100:.1f} % -> {now['share'] * 100:.1f} %")
    # A bake loads its models once, while other work may disturb it: only quiet machines are compared.
    if "seconds" in counted:
        worse += lower(name, "speedup", now["speedup"], before["speedup"])
    return worse


def lower(name, figure, now, before):
    if before is None:
        return []
    # An input that is returned has no figures of its own: it is as good, and as fast, as itself.
    now = now or {"value": 1.0, "lower": 1.0, "upper": 1.0}
    # Both were measured: the interval of their difference is as long as the two together, at right angles.
    spread = math.hypot(reach(now), reach(before))
    if before["value"] - now["value"] > spread:
        return [f"{name}: {figure} {before['value']:.4f} -> {now['value']:.4f}, more than the spread of {spread:.4f}"]
    return []


def reach(figure):
    """How far the interval goes from the value, on its longer side."""
    if figure.get("lower") is None or figure.get("upper") is None:
        return 0.0
    return max(figure["value"] - figure["lower"], figure["upper"] - figure["value"])


def more(name, figure, now, before):
    if before.get(figure) and now.get(figure) and now[figure] > before[figure] * MORE[figure]:
        return [f"{name}: {figure} {before[figure]:.9g} -> {now[figure]:.9g}, more than {(MORE[figure] - 1) * 100:.0f} %"]
    return []
