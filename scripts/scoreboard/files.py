"""Files: what lies on this machine, as the detector of file types sees it, labelled by extension.

No two machines hold the same files, and one machine never for long. So the bytes that are looked at are kept from the first time on: figures of one machine stay
comparable, and nothing that is scored on can come into what a bake was given.
"""

import json
import os
import pathlib
import random

import numpy as np

from scoreboard import place

KEPT = place.EVALUATION / "magika.npz"
CONFIGURATION = place.PACKAGES / "magika" / "magika" / "models" / "standard_v3_3" / "config.min.json"
ROOTS = ["/usr/lib", "/usr/share", "/usr/local/lib", pathlib.Path.home() / ".cargo" / "registry" / "src", place.ENVIRONMENT / "lib"]
# Of each type: so many to calibrate and score with, and so many to validate with.
SCORED, VALIDATED = 26, 14
TYPES = {
    ".c": "c", ".cmake": "cmake", ".css": "css", ".csv": "csv", ".f90": "fortran", ".gif": "gif", ".go": "go", ".gz": "gzip", ".html": "html", ".java": "java",
    ".jpg": "jpeg", ".js": "javascript", ".json": "json", ".lua": "lua", ".md": "markdown", ".npz": "npz", ".pem": "pem", ".pl": "perl", ".png": "png", ".py": "python",
    ".pyc": "pythonbytecode", ".rs": "rust", ".rst": "rst", ".sh": "shell", ".so": "elf", ".svg": "svg", ".toml": "toml", ".ts": "typescript", ".ttf": "ttf",
    ".wav": "wav", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".zip": "zip",
}  # fmt: skip


def samples():
    """(bytes, labels) of the files to calibrate and score with, and of those to validate with; bytes are (n, 2048): the two ends of each file, 256 is padding."""
    if not KEPT.exists():
        keep()
    with np.load(KEPT) as kept:
        return (kept["scored"], kept["scored_labels"]), (kept["validated"], kept["validated_labels"])


def keep():
    labels = json.loads(CONFIGURATION.read_text())["target_labels_space"]
    scored, validated = chosen(pool(labels))
    arrays = {}
    for name, files in [("scored", scored), ("validated", validated)]:
        arrays[name] = np.asarray([ends(path) for path, _ in files], np.int32)
        arrays[f"{name}_labels"] = np.asarray([labels.index(kind) for _, kind in files])
    part = KEPT.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)
    part.rename(KEPT)


def pool(labels):
    """{type: paths} of this machine's files whose type the detector knows."""
    found = {}
    for root in ROOTS:
        for folder, _, names in os.walk(root):
            for name in names:
                kind = TYPES.get(os.path.splitext(name)[1])
                if kind in labels:
                    found.setdefault(kind, []).append(os.path.join(folder, name))
    return found


def chosen(found):
    """Files drawn from each type, in two groups; those of the first are shuffled."""
    rng, scored, validated = random.Random(4), [], []
    for kind in sorted(found):
        paths = sorted(found[kind])
        rng.shuffle(paths)
        usable = []
        for path in paths:
            if len(usable) == SCORED + VALIDATED:
                break
            try:
                if not os.path.islink(path) and os.path.getsize(path) > 200:
                    usable.append((path, kind))
            except OSError:
                continue
        scored += usable[:SCORED]
        validated += usable[SCORED:]
    rng.shuffle(scored)
    return scored, validated


def ends(path):
    """The first and the last 1,024 bytes without the blanks around the file, each padded to its outer side's opposite with 256."""
    size = os.path.getsize(path)
    block = min(4096, size)
    with open(path, "rb") as file:
        head = file.read(block).lstrip()[:1024]
        file.seek(size - block)
        tail = file.read(block).rstrip()[-1024:]
    return list(head) + [256] * (1024 - len(head)) + [256] * (1024 - len(tail)) + list(tail)
