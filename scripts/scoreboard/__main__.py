"""Runs the whole scoreboard and writes BENCHMARKS.md and BENCHMARKS.json.

usage: scripts/scoreboard.sh [--only TASK]... [--level LEVEL] [--no-peers] [--no-matrix] [--program FILE]

A run that leaves something out writes to target/scoreboard/ instead. Ends with 1 when a figure is worse than the committed one by more than its spread; targets that are
missed are shown, and do not count.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import bakes
from scoreboard import fetch, machine, matrix, ours, page, place, process, regressions, targets
from scoreboard.fetch import say
from scoreboard.peers import PEERS

# Seconds after which a child is ended.
PEER_LIMIT, BAKE_LIMIT, CHILD_LIMIT = 300, 600, 1800
LEVEL = "medium"


def main():
    given = arguments()
    program = given.program.resolve()
    fetch.fetch()
    child("models")
    figures = facts(program, given.level)
    for task in given.only or bakes.TASKS:
        child("export", task)
        rows = {} if given.no_peers else {peer: peer_row(task, peer) for peer in PEERS}
        rows |= ours.rows(program, task, given.level, BAKE_LIMIT)
        figures["tasks"][task] = scored(task, rows)
    if not given.no_matrix:
        figures["matrix"] = list(matrix.cells(program, BAKE_LIMIT))
    figures["targets"] = targets.of_artifacts(figures["tasks"])
    figures["costs"] = targets.of_bakes(figures["tasks"], figures["startSeconds"])
    figures["loadAtEnd"] = os.getloadavg()[0]
    whole = not (given.only or given.no_peers or given.no_matrix) and given.level == LEVEL
    write(figures, bakes.ROOT if whole else bakes.ROOT / "target" / "scoreboard")
    sys.exit(1 if told(figures, committed()) else 0)


def arguments():
    parser = argparse.ArgumentParser(prog="scoreboard.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, required=True, help="the built Bakehouse (default: a release build of this tree)")
    parser.add_argument("--only", action="append", choices=bakes.TASKS, metavar="TASK", help=f"this task, may be repeated: {', '.join(bakes.TASKS)}")
    parser.add_argument("--level", default=LEVEL, type=str.lower, help="level of the bakes (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="bake with Bakehouse alone")
    parser.add_argument("--no-matrix", action="store_true", help="leave out the examples")
    return parser.parse_args()


def facts(program, level):
    return {
        "commit": bakes.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "level": level,
        # The last two parts tell a release build of this tree from a program that was named.
        "program": {"file": "/".join(program.parts[-2:]), "version": ours.version(program), "sha256": digest(program)},
        "machine": machine.facts(),
        "versions": machine.versions(),
        "peers": {name: what for name, (what, _) in PEERS.items()},
        "startSeconds": ours.start_seconds(program),
        "tasks": {},
        "matrix": [],
    }


def peer_row(task, peer):
    """One bake by a peer, in a process and a folder of its own: some leave files behind, and some take the process down."""
    say(f"baking {task} with {peer}")
    artifact = place.baked(task, peer)
    artifact.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            row = run("peers", PEER_LIMIT, scratch, task, peer, artifact)
        except process.Failed as failure:
            row = {"error": str(failure)}
    if row["error"]:
        artifact.unlink(missing_ok=True)
    return row


def scored(task, rows):
    """The task with all its rows, fp32 first, those that gave a model with their scores."""
    say(f"scoring {task}")
    found = scores(task, {name: place.baked(task, name) for name, row in rows.items() if not row["error"]})
    model = place.model(task)
    return {
        "model": {"sha256": digest(model), "bytes": model.stat().st_size},
        "evaluation": found["evaluation"],
        "rows": {"fp32": found["rows"]["fp32"], **{name: without_paths({**row, **found["rows"].get(name, {})}) for name, row in rows.items()}},
    }


def without_paths(row):
    """The row, its error without the folder of this machine that files lay in."""
    return {**row, "error": row["error"] and row["error"].replace(f"{place.FOLDER}/", "")}


def scores(task, artifacts):
    """What score.py says of the artifacts. Those that take its process down are found one by one; the others are then scored without them."""
    score = lambda some: run("score", CHILD_LIMIT, place.FOLDER, task, *(f"{name}={file}" for name, file in some.items()))
    try:
        return score(artifacts)
    except process.Failed as failure:
        if not artifacts:
            sys.exit(f"scoreboard: {task} cannot be scored: {failure}")
        say(f"scoring {task} one by one: {failure}")
    felled = {}
    for name, file in artifacts.items():
        try:
            score({name: file})
        except process.Failed as failure:
            felled[name] = {"error": str(failure)}
    if not felled:
        sys.exit(f"scoreboard: {task}: each artifact can be scored, but not all together")
    found = scores(task, {name: file for name, file in artifacts.items() if name not in felled})
    return {**found, "rows": {**found["rows"], **felled}}


def child(module, *arguments):
    """Runs a part that gives no answer, only files."""
    command = [place.PYTHON, "-B", "-m", f"scoreboard.{module}", *arguments]
    if subprocess.run(command, env=environment(), timeout=CHILD_LIMIT).returncode:
        sys.exit(f"scoreboard: `{module} {' '.join(arguments)}` failed; what it said stands above")


def run(module, limit, folder, *arguments):
    return process.answer([place.PYTHON, "-B", "-m", f"scoreboard.{module}", *arguments], limit, folder, environment())


def environment():
    return {**os.environ, "PYTHONPATH": str(bakes.ROOT / "scripts"), "TQDM_DISABLE": "1"}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def committed():
    """The committed figures, whatever lies in the working tree."""
    shown = subprocess.run(["git", "show", "HEAD:BENCHMARKS.json"], cwd=bakes.ROOT, capture_output=True, text=True)
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def write(figures, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "BENCHMARKS.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "BENCHMARKS.md").write_text(page.render(figures))
    say(f"wrote {folder}/BENCHMARKS.md and BENCHMARKS.json")


def told(figures, before):
    """Prints the page, the targets that were missed and the regressions; returns the regressions."""
    worse, notes = regressions.compare(figures, before)
    missed = [f"{e['task']}: {e['figure']} {e['asked']}, reached {e.get('reached') or e[e['judged']]}" for e in figures["targets"] + figures["costs"] if e["met"] is False]
    print(page.render(figures))
    for title, lines in [("Targets missed", missed), ("Regressions against the committed figures", worse), ("Not compared", notes)]:
        print(f"{title}: {len(lines)}" + "".join(f"\n- {line}" for line in lines))
    return worse


if __name__ == "__main__":
    main()
