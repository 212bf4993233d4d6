"""The scoreboard: six trained models that nobody here made, baked by Bakehouse and by its peers, scored on ONNX Runtime with the true metrics.

`python3 -m scoreboard` is the whole run. What it starts with the system's Python needs the standard library alone; `models`, `export`, `peers` and `score` run in the
scoreboard's own environment, each in a process of its own.
"""
