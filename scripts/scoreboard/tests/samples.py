"""Figures as a run writes them, small and made up, for the tests."""

import copy

MACHINE = {"cpu": "A CPU", "vectors": ["avx2"], "cores": 2, "memoryBytes": 2**34, "kernel": "6", "system": "Debian", "load": 0.1}


def figure(value, spread=0.0):
    return {"value": value, "lower": value - spread, "upper": value + spread, "n": 9}


def row(metric=0.95, speedup=1.0, bytes_=1024 * 1000, **more):
    scores = {"bytes": bytes_, "metric": figure(metric, 0.002), "agreement": {"value": 0.99}, "cosine": figure(0.999, 0.0001)}
    return {"error": None, **scores, "milliseconds": figure(1 / speedup, 0.01), "speedup": figure(speedup, 0.05), **more}


def baked(**more):
    spent = {"seconds": 4.0, "peakBytes": 100e6, "graphSeconds": 0.01, "candidates": 5, "search": None, "static": None}
    return row(**{"reason": "Baked", "candidate": "static-int8", "missed": [], **spent, **more})


def cell(**more):
    return {
        "example": "cnn",
        "level": "medium",
        "error": None,
        "reason": "Baked",
        "candidate": "static-int8",
        "share": 0.3,
        "speedup": figure(1.5, 0.1),
        "retention": figure(1.0, 0.002),
        "seconds": 2.0,
        **more,
    }


def figures(task="silero_seq", **rows):
    rows = {"fp32": row(), "bakehouse-size": baked(), "bakehouse-latency": baked(), **rows}
    model, evaluation = {"sha256": "m", "bytes": 100 * 10**6}, {"sha256": "e", "metric": "frames", "agreement": "same verdict"}
    return copy.deepcopy(
        {
            "commit": "abc",
            "date": "2026-01-01 00:00 UTC",
            "level": "medium",
            "program": {"file": "release/bakehouse", "version": "bakehouse 1", "sha256": "p"},
            "machine": MACHINE,
            "loadAtEnd": 0.2,
            "versions": {"Python": "3"},
            "peers": {"dyn": "a peer"},
            "startSeconds": 0.004,
            "tasks": {task: {"model": model, "evaluation": evaluation, "rows": rows}},
            "matrix": [cell()],
            "targets": [],
            "costs": [],
        }
    )
