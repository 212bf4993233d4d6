"""Writes what a bake is given of each task: one array per input, axis 0 the sample, each sample a whole feed; `labels` beside the validation samples where true ones exist.

usage: export.py TASK...    in the scoreboard's environment. Nothing of what is scored on is written: a bake must not see it.
"""

import sys

import numpy as np

from scoreboard import files, place, tasks


def main():
    for name in sys.argv[1:]:
        task = None
        for split in ("calibration", "validation"):
            path = place.split(name, split)
            if path.exists() and not stale(name, path):
                continue
            task = task or tasks.TASKS[name]()
            write(path, getattr(task, split), task.labels if split == "validation" else None)


def stale(name, path):
    """Whether other files were kept since: then the two groups of this split and of the kept ones may overlap."""
    if name != "magika":
        return False
    return not files.KEPT.exists() or path.stat().st_mtime < files.KEPT.stat().st_mtime


def write(path, feeds, labels):
    arrays = {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
    if labels is not None:
        arrays["labels"] = np.asarray(labels, np.int64)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.rename(path)


if __name__ == "__main__":
    main()
