"""What the measuring scripts share: starting bakes, reading reports, finding the scoreboard's models. Standard library only."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ["mlp", "cnn", "resnet", "lstm", "gru", "encoder"]
TASKS = ["mlp_mnist", "ppocr_cls", "silero_seq", "magika", "opennsfw", "minilm"]


class Failed(Exception):
    """A bake that ended without an artifact."""


def scoreboard_folder():
    """Where the scoreboard's models and data lie, or will."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(os.environ.get("BAKEHOUSE_SCOREBOARD") or cache / "bakehouse" / "scoreboard")


def scoreboard():
    """Folder of the scoreboard's models and data, or None when it was never fetched."""
    folder = scoreboard_folder()
    return folder if (folder / "models").is_dir() and (folder / "data").is_dir() else None


def commit():
    """The commit, and whether the tree differs from it in more than the figures that are written into it."""
    git = lambda *args: subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    head = git("rev-parse", "HEAD") or "no commit"
    return head + (" with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!BENCHMARKS.*") else "")


class Bake:
    """One finished bake: its summary, its report and the report's digest."""

    def __init__(self, name, level, goal, summary, folder):
        self.name, self.level, self.goal = name, level, goal
        self.summary, self.folder = summary, pathlib.Path(folder)
        text = (self.folder / "report.json").read_bytes()
        self.digest = hashlib.sha256(text).hexdigest()
        self.report = json.loads(text)
        self.before = self.report["baseline"]
        # Without a baked model in the report, the input itself is the artifact.
        self.after = self.report.get("baked") or self.before

    @property
    def ended_well(self):
        return self.summary["reason"] in ("Baked", "NoImprovement")

    @property
    def unchanged(self):
        return self.report["outcome"]["candidate"] == "input"

    @property
    def bytes_ratio(self):
        return self.after["bytes"] / self.before["bytes"]

    @property
    def speedup(self):
        """(ratio, lower, upper, n), or None when the input itself is the artifact."""
        first = self.report["speedup"][:1]
        return next(((p["ratio"], p["lower"], p["upper"], len(p["ratios"])) for p in (f["paired"] for f in first)), None)


def bake(program, name, level, goal, out, arguments, limit=None):
    """Bakes into `out`; raises Failed with what the program said when there is no artifact, or none within `limit` seconds."""
    command = [str(program), "bake", "--json", "--quiet", "--level", level, "--goal", goal, "--out", str(out), *map(str, arguments)]
    print(f"baking {name} at {level} for {goal}", file=sys.stderr, flush=True)
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name}, {level}, {goal}: ended after the time limit of {limit} s") from None
    try:
        summary = json.loads(run.stdout)
    except ValueError:
        raise Failed(f"{name}, {level}, {goal}: exit code {run.returncode}: {last_line(run.stderr)}") from None
    if "folder" not in summary:
        raise Failed(f"{name}, {level}, {goal}: {summary['reason']}: {summary['message']}")
    return Bake(name, level, goal, summary, summary["folder"])


def bake_example(program, example, level, goal, out, limit=None):
    return bake(program, example, level, goal, out, ["-f", ROOT / "examples" / example / "bakejob.yaml"], limit)


def bake_task(program, task, level, goal, out, folder, limit=None, gates=()):
    """Bakes a model of the scoreboard from its calibration and validation data alone. `gates`: (metric, least) in place of the default gates of these metrics."""
    model = folder / "models" / f"{task}.onnx"
    calibration, validation = (folder / "data" / f"{task}.{split}.npz" for split in ("calibration", "validation"))
    if not gates:
        return bake(program, task, level, goal, out, [model, f"--calibration={calibration}", f"--data={validation}"], limit)
    job = {
        "apiVersion": "bakehouse.dev/v1alpha1",
        "kind": "BakeJob",
        "metadata": {"name": task.replace("_", "-")},
        "spec": {
            "source": {"uri": str(model)},
            "data": {"calibration": {"uri": str(calibration)}, "validation": {"uri": str(validation)}},
            "gates": [{"metric": metric, "min": least} for metric, least in gates],
            "output": {"uri": str(out)},
        },
    }
    with tempfile.TemporaryDirectory() as scratch:
        file = pathlib.Path(scratch) / "bakejob.yaml"
        file.write_text(json.dumps(job))  # which is YAML
        return bake(program, task, level, goal, out, ["-f", file], limit)


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def table(header, rows):
    """A Markdown table."""
    line = lambda cells: "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
