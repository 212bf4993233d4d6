"""What is asked of Bakehouse on the six models, and whether this run's artifacts reach it. Nothing here is measured.

The bounds of a model are what the best of all peers reached on it by any documented or expert path, or better.
"""

from dataclasses import dataclass

from scoreboard import ours

NAMES = {"metric": "true metric", "agreement": "rank correlation", "cosine": "cosine", "kilobytes": "KB", "speedup": "speedup"}


@dataclass(frozen=True)
class Asked:
    """A bound on one figure of an artifact: `least`, `most`, or `below_fp32`, so far below the figure of fp32 on the same samples.

    `match_peer`: where peers ran, as fast as the fastest of them that keeps the figures of fp32 is enough, by the intervals of both; `least` is asked where none did.
    """

    figure: str
    least: float = None
    most: float = None
    below_fp32: float = None
    match_peer: bool = False


@dataclass(frozen=True)
class Bound:
    """What is asked in this run, in figures and in words."""

    value: float
    at_most: bool
    words: str

    def shortfall(self, value):
        """By what share of the bound it is missed; 0 when it is kept, 1 when there is no value."""
        if value is None:
            return 1.0
        return max((value - self.value if self.at_most else self.value - value) / self.value, 0.0)


ASKED = {
    "mlp_mnist": [Asked("metric", least=0.935), Asked("kilobytes", most=232), Asked("speedup", least=1.75, match_peer=True)],
    "ppocr_cls": [Asked("metric", least=0.9725), Asked("kilobytes", most=300), Asked("speedup", least=1.0)],
    "silero_seq": [Asked("metric", least=0.982), Asked("kilobytes", most=720), Asked("speedup", least=4.3)],
    "magika": [Asked("metric", below_fp32=0.005), Asked("kilobytes", most=815), Asked("speedup", least=2.1)],
    "opennsfw": [Asked("agreement", least=0.99), Asked("kilobytes", most=6100), Asked("speedup", least=2.4)],
    "minilm": [Asked("cosine", least=0.995), Asked("kilobytes", most=23_000), Asked("speedup", least=2.4)],
}
# Asked of a level that is not built; listed so that nobody takes it for forgotten.
LATER = [{"task": "mlp_mnist", "figure": "all ternary (level Maximum)", "asked": ">= 92.7 %, <= 90 KB", "size": "-", "latency": "-", "met": None}]

START_SECONDS = 0.02
GRAPH_SECONDS = 0.1
# Of the time ONNX Runtime's MinMax takes.
STATIC_SHARE = 1 / 3
# So many models of a search, each made and run on real samples, in less than the search of a peer takes that looks at quality and latency: Neural Compressor's tuning of small and of
# large models took 6 to 10 s.
SEARCH_MODELS, SEARCH_SECONDS = 20, 10.0
# Fewer say nothing of the pace.
FEWEST_MODELS = 10
# The peak of a bake: so many times the model, and so many bytes.
PEAK_MODELS, PEAK_BYTES = 2, 200e6
# ONNX Runtime's static quantisation: what most people call, and where that fails the way of an expert.
MINMAX = ["st_minmax", "st3_minmax_mm"]


def value_of(row, figure):
    """A figure of a row as targets count it; None where the row has none."""
    if figure == "kilobytes":
        return row["bytes"] // 1024 if "bytes" in row else None
    return (row.get(figure) or {}).get("value")


def quality(task):
    """The figures that the quality of this task's artifacts is told by: the true metric, where labels exist, and what is asked of it."""
    return {"metric"} | {a.figure for a in ASKED[task] if a.figure in ("agreement", "cosine")}


def shown(figure, value):
    if value is None:
        return "none"
    return {"metric": f"{value * 100:.2f} %", "kilobytes": f"{value:.0f} KB", "speedup": f"{value:.3f}x"}.get(figure, f"{value:.4f}")


def bound(asked, rows):
    """What `asked` comes to beside the rows of this run."""
    show = lambda value: shown(asked.figure, value)
    if asked.most is not None:
        return Bound(asked.most, True, f"<= {show(asked.most)}")
    if asked.below_fp32 is not None:
        value = value_of(rows["fp32"], asked.figure) - asked.below_fp32
        return Bound(value, False, f">= {show(value)} (fp32 - {asked.below_fp32 * 100:g} points)")
    peer = fastest_peer(rows) if asked.match_peer else None
    if peer is not None:
        speedup = rows[peer]["speedup"]
        return Bound(speedup["lower"], False, f"as {peer}: {show(speedup['value'])} [{speedup['lower']:.3f}, {speedup['upper']:.3f}]")
    return Bound(asked.least, False, f">= {show(asked.least)}")


def fastest_peer(rows):
    """The fastest peer whose true metric is at least that of fp32."""
    least = rows["fp32"]["metric"]["value"]
    others = {name: row for name, row in rows.items() if name != "fp32" and not name.startswith("bakehouse-")}
    kept = [name for name, row in others.items() if row.get("metric") and row["metric"]["value"] >= least]
    return max(kept, key=lambda name: rows[name]["speedup"]["value"], default=None)


def of_artifacts(tasks):
    """All bounds of a model must be kept by one artifact. Of the two goals baked for, that one is judged which falls short by less in all; Latency where they are
    alike."""
    results = []
    for task, asked in ASKED.items():
        if task not in tasks:
            continue
        rows = tasks[task]["rows"]
        bounds = [bound(a, rows) for a in asked]
        # A matched peer is matched by the upper end of the interval.
        reached = lambda goal, a: reach(rows.get(ours.name(goal), {}), a)
        short = {goal: [b.shortfall(reached(goal, a)) for a, b in zip(asked, bounds)] for goal in ours.GOALS}
        goal = min(reversed(ours.GOALS), key=lambda goal: sum(short[goal]))
        for a, b, missed_by in zip(asked, bounds, short[goal]):
            values = {g: shown(a.figure, value_of(rows.get(ours.name(g), {}), a.figure)) for g in ours.GOALS}
            results.append({"task": task, "figure": NAMES[a.figure], "asked": b.words, **values, "judged": goal, "met": missed_by == 0})
        results += [later for later in LATER if later["task"] == task]
    return results


def models_reached(found):
    """(models that keep all that is asked, models judged)."""
    by_task = {}
    for entry in found:
        if entry["met"] is not None:
            by_task.setdefault(entry["task"], []).append(entry["met"])
    return sum(map(all, by_task.values())), len(by_task)


def reach(row, asked):
    """The figure that a bound is held against."""
    return row["speedup"]["upper"] if asked.match_peer and row.get("speedup") else value_of(row, asked.figure)


def of_bakes(tasks, start_seconds):
    """What a bake may cost: seconds and memory."""
    results = [entry("all", "start of the program", f"< {START_SECONDS * 1e3:.0f} ms", f"{start_seconds * 1e3:.1f} ms", start_seconds < START_SECONDS)]
    for task, found in tasks.items():
        rows = [row for name in [*map(ours.name, ours.GOALS), ours.BY_DEFAULT_GATES] if not (row := found["rows"].get(name, {"error": "not run"})).get("error")]
        if not rows:
            results.append(entry(task, "bake", "an artifact", "none", False))
            continue
        graph = max(row["graphSeconds"] for row in rows)
        results.append(entry(task, "graph passes", f"< {GRAPH_SECONDS:g} s", f"{graph:.3f} s", graph < GRAPH_SECONDS))
        results.append(static_target(task, found["rows"]))
        results += search_target(task, rows)
        peaks = [row["peakBytes"] for row in rows if row["peakBytes"]]
        most = PEAK_MODELS * found["model"]["bytes"] + PEAK_BYTES
        if peaks:
            results.append(entry(task, "peak memory of a bake", f"<= {most / 1e6:.0f} MB", f"{max(peaks) / 1e6:.0f} MB", max(peaks) <= most))
    return results


def static_target(task, rows):
    figure = "one static candidate, calibration included"
    peer, seconds = minmax(rows)
    if seconds is None:
        return entry(task, figure, "a third of ONNX Runtime MinMax's time", "MinMax failed or was not run", None)
    asked = f"<= {seconds * STATIC_SHARE:.3f} s (a third of {peer})"
    took = [static_seconds(row) for name in map(ours.name, ours.GOALS) if (row := rows.get(name, {})).get("static")]
    return entry(task, figure, asked, f"{min(took):.3f} s", min(took) <= seconds * STATIC_SHARE) if took else entry(task, figure, asked, "absent from the report", None)


def search_target(task, rows):
    took = [seconds for row in rows if (seconds := search_seconds(row)) is not None]
    figure = f"{SEARCH_MODELS} models at the pace of the search"
    return [entry(task, figure, f"< {SEARCH_SECONDS:g} s (Neural Compressor: 6 to 10 s)", f"{max(took):.2f} s", max(took) < SEARCH_SECONDS)] if took else []


def search_seconds(row):
    """Seconds of so many models, made, run on the search split and timed, at the pace of the search; None where it ran too few to have one."""
    search = row.get("search")
    return SEARCH_MODELS * search["seconds"] / search["models"] if search and search["models"] >= FEWEST_MODELS else None


def static_seconds(row):
    return row["graphSeconds"] + row["static"]["calibrationSeconds"] + row["static"]["passSeconds"]


def minmax(rows):
    """(peer, seconds) of ONNX Runtime's static quantisation, or None twice when no way of it gave a model that loads."""
    return next(((peer, rows[peer]["seconds"]) for peer in MINMAX if peer in rows and not rows[peer]["error"]), (None, None))


def entry(task, figure, asked, reached, met):
    return {"task": task, "figure": figure, "asked": asked, "reached": reached, "met": met}
