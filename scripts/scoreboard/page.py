"""BENCHMARKS.md, from the figures alone: nothing is measured here, and nothing typed."""

import bakes
from scoreboard import ours, targets

LONGEST_ERROR = 200


def render(figures):
    parts = ["# Benchmarks", preface(figures), reached(figures["targets"]), costs(figures["costs"]), speed(figures)]
    parts += ["## The six models", legend(figures)] if figures["tasks"] else []
    parts += [task(name, found) for name, found in figures["tasks"].items()]
    parts += [matrix(figures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def preface(figures):
    machine, versions = figures["machine"], figures["versions"]
    load = f"load {machine['load']:.1f} at the start, {figures['loadAtEnd']:.1f} at the end"
    lines = [
        "Written by `make scoreboard`, which measures all of it anew; the same figures for programs are in `BENCHMARKS.json`. Do not edit.",
        "",
        f"- commit {figures['commit']}, {figures['date']}, level {figures['level'].capitalize()}",
        f"- program: {figures['program']['file']}, {figures['program']['version']}, sha256 {figures['program']['sha256']}{engines(figures)}",
        f"- machine: {machine['cpu']}, {', '.join(machine['vectors'])}; {machine['cores']} cores, {machine['memoryBytes'] / 2**30:.0f} GiB; "
        f"{machine['system']}, kernel {machine['kernel']}; {load}",
        f"- versions: {', '.join(f'{package} {version}' for package, version in versions.items())}",
    ]
    return "\n".join(lines)


def engines(figures):
    """The engines that the bakes measured their candidates on."""
    found = {row["engine"] for task in figures["tasks"].values() for row in task["rows"].values() if row.get("engine")}
    return f"; its bakes measured on {', '.join(sorted(found))}" if found else ""


def legend(figures):
    said = "; ".join(f"`{name}`: {what}" for name, what in figures["peers"].items())
    return (
        "Every artifact is scored on ONNX Runtime, on samples that no bake was given. Brackets hold 95 % intervals: of the true metric, of its difference to fp32 "
        "on the same samples; of times and speedups, of the median over n loads of all artifacts, which take turns. CPU time is that of one thread. KB are 1,024 "
        "bytes, MB a million. `load s` is the time to load libraries, left out of `bake s`; of Bakehouse, `bake s` is the whole search, with all its candidates, "
        "measurements and gates. Peaks are those of the whole process.\n\n"
        f"Peers: {said}."
    )


def reached(found):
    if not found:
        return ""
    cell = lambda entry, goal: f"**{entry[goal]}**" if entry.get("judged") == goal else entry[goal]
    rows = [[e["task"], e["figure"], e["asked"], *(cell(e, goal) for goal in ours.GOALS), yes(e["met"])] for e in found]
    header = ["model", "figure", "asked", *(f"goal {goal.capitalize()}" for goal in ours.GOALS), "met"]
    models, of = targets.models_reached(found)
    said = f"{models} of {of} models reach all that is asked; {tally(found)} All is asked of one artifact: the one in bold is judged, which falls short by less."
    looser = [task for task in ours.GATES if any(e["task"] == task for e in found)]
    if looser:
        said += f" {', '.join(looser)}: with gates of its own, which are looser than the default ones; what the default ones give stands in its table below."
    return f"## Asked and reached\n\n{said}\n\n" + bakes.table(header, rows)


def costs(found):
    rows = [[e["task"], e["figure"], e["asked"], e["reached"], yes(e["met"])] for e in found]
    return f"## What a bake may cost\n\n{tally(found)}\n\n" + bakes.table(["model", "figure", "asked", "reached", "met"], rows) if rows else ""


def tally(found):
    return f"{sum(e['met'] is True for e in found)} of {sum(e['met'] is not None for e in found)} met."


def yes(met):
    return {True: "yes", False: "no", None: "-"}[met]


def speed(figures):
    """Seconds of one static candidate beside those of ONNX Runtime's MinMax."""
    rows = []
    for name, found in figures["tasks"].items():
        peer, seconds = targets.minmax(found["rows"])
        automatic = found["rows"].get("onnxsim_auto", {}).get("seconds")
        for goal in ours.GOALS:
            row = found["rows"].get(ours.name(goal), {})
            static = row.get("static")
            rows.append(
                [
                    name,
                    goal,
                    f"{static['calibrationSeconds']:.3f} ({static['samples']} samples, {static['tensors']} tensors)" if static else "absent",
                    f"{static['passSeconds']:.3f} ({static['candidate']})" if static else "absent",
                    f"{seconds:.3f} ({peer})" if seconds is not None else "-",
                    f"{targets.static_seconds(row) / seconds:.2f}" if static and seconds else "-",
                    f"{row['candidates']} in {row['seconds']:.1f} s" if "candidates" in row else "-",
                    f"{row['search']['models']} in {row['search']['seconds']:.1f} s" if row.get("search") else "-",
                    f"{automatic:.1f} s" if automatic is not None else "-",
                    f"{row['peakBytes'] / 1e6:.0f}" if row.get("peakBytes") else "-",
                ]
            )
    if not rows:
        return ""
    header = ["model", "goal", "calibration and ranges s", "passes of the candidate s, repairs aside", "ONNX Runtime MinMax s", "ours / theirs", "candidates, whole bake", "models that the search ran", "onnxsim_auto", "peak MB"]
    start = f"Start of the program, left out on our side: {figures['startSeconds'] * 1e3:.1f} ms. Of the peers, loading the libraries is left out: `load s` below."
    return f"## Calibration and search\n\n{start}\n\n" + bakes.table(header, rows)


def task(name, found):
    header = ["artifact", "true metric", "agreement", "cosine", "KB", "CPU ms", "speedup", "bake s", "load s", "peak MB", "note"]
    said = f"True metric: {found['evaluation']['metric']}. Agreement with fp32: {found['evaluation']['agreement']}.{gates(name)}"
    return f"### {name}\n\n{said}\n\n" + bakes.table(header, [artifact(variant, row) for variant, row in found["rows"].items()])


def gates(task):
    """The gates of a task that has its own, in words."""
    own = [f"{metric} >= {least}" for metric, least in ours.GATES.get(task, ())]
    return f" Gates of its own, for what is asked is its ranking: {', '.join(own)}; `{ours.BY_DEFAULT_GATES}` has the default ones, and is not judged." if own else ""


def artifact(variant, row):
    measured = "bytes" in row
    cell = lambda figure, show: show(row[figure]) if measured and row.get(figure) else "-"
    return [
        variant,
        cell("metric", lambda f: f"{f['value'] * 100:.2f} % [{f['lower'] * 100:.2f}, {f['upper'] * 100:.2f}]"),
        cell("agreement", lambda f: f"{f['value']:.4f}" + (f" [{f['lower']:.4f}, {f['upper']:.4f}]" if "lower" in f else "")),
        cell("cosine", lambda f: f"{f['value']:.5f}"),
        cell("bytes", lambda b: f"{b // 1024}"),
        cell("milliseconds", lambda f: f"{f['value']:.3f} [{f['lower']:.3f}, {f['upper']:.3f}]"),
        cell("speedup", lambda f: f"{f['value']:.2f}x [{f['lower']:.2f}, {f['upper']:.2f}] n={f['n']}"),
        f"{row['seconds']:.2f}" if row.get("seconds") is not None else "-",
        f"{row['loadSeconds']:.2f}" if row.get("loadSeconds") is not None else "-",
        f"{row['peakBytes'] / 1e6:.0f}" if row.get("peakBytes") else "-",
        note(row),
    ]


def note(row):
    if row["error"]:
        return shortened(row["error"])
    if "candidate" not in row:
        return ""
    return "; ".join([f"{row['reason']}: {row['candidate']}", *map(shortened, row["missed"])])


def shortened(text):
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_ERROR else line[:LONGEST_ERROR] + " ..."


def matrix(figures):
    rows = []
    for cell in figures["matrix"]:
        if cell["error"]:
            rows.append([cell["example"], cell["level"].capitalize(), "no artifact", "-", "-", "-", "-", "-", shortened(cell["error"])])
            continue
        speedup, retention = cell["speedup"], cell["retention"]
        rows.append(
            [
                cell["example"],
                cell["level"].capitalize(),
                cell["reason"],
                f"{cell['share'] * 100:.1f} %",
                f"{speedup['value']:.2f}x [{speedup['lower']:.2f}, {speedup['upper']:.2f}] n={speedup['n']}" if speedup else "input returned",
                f"{retention['value']:.4f} [{bound(retention['lower'])}, {bound(retention['upper'])}]" if retention else "-",
                cell["candidate"],
                f"{cell['seconds']:.1f}",
                "",
            ]
        )
    header = ["example", "level", "outcome", "size", "speedup", "accuracy retention", "candidate", "seconds", "note"]
    said = "The six examples with the goal Balanced, by their own labels; figures from the reports of the bakes."
    return f"## Kinds of models, level by level\n\n{said}\n\n" + bakes.table(header, rows) if rows else ""


def bound(value):
    return "-" if value is None else f"{value:.4f}"
