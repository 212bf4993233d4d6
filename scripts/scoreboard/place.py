"""Where the scoreboard keeps what it fetches and makes: $BAKEHOUSE_SCOREBOARD, else bakehouse/scoreboard in the user's cache. Nothing of it is committed."""

import bakes

FOLDER = bakes.scoreboard_folder()
ENVIRONMENT = FOLDER / "v"
PYTHON = ENVIRONMENT / "bin" / "python"
WHEELS = FOLDER / "w"
PACKAGES = FOLDER / "m"
MODELS = FOLDER / "models"
# What a bake is given, and all it is given: <task>.calibration.npz and <task>.validation.npz.
DATA = FOLDER / "data"
# What is scored on and cannot be made again; no bake is told of it.
EVALUATION = FOLDER / "evaluation"
BAKED = FOLDER / "baked"
REPORTS = FOLDER / "reports"


def model(task):
    return MODELS / f"{task}.onnx"


def split(task, name):
    return DATA / f"{task}.{name}.npz"


def baked(task, name):
    return BAKED / f"{task}.{name}.onnx"
