"""Every kind of model at every level: the six examples, each with its own goal and data, and how each bake ended."""

import tempfile

import bakes
from scoreboard import ours


def cells(program, limit):
    with tempfile.TemporaryDirectory() as folder:
        for level in ours.levels(program):
            for example in bakes.EXAMPLES:
                yield {"example": example, "level": level, **cell(program, example, level, f"{folder}/{example}-{level}", limit)}


def cell(program, example, level, out, limit):
    try:
        done = bakes.bake_example(program, example, level, "balanced", out, limit)
    except bakes.Failed as failure:
        return {"error": str(failure)}
    retention = (done.report.get("quality") or {}).get("accuracy_retention")
    if retention and retention["estimate"] is None:
        retention = None
    return {
        "error": None,
        "reason": done.summary["reason"],
        "candidate": done.report["outcome"]["candidate"],
        "share": done.bytes_ratio,
        "speedup": done.speedup and dict(zip(("value", "lower", "upper", "n"), done.speedup)),
        "retention": retention and {"value": retention["estimate"], "lower": retention["lower"], "upper": retention["upper"], "n": retention["n"]},
        "seconds": done.summary["seconds"],
    }
