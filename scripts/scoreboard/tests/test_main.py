import contextlib
import io
import unittest
from unittest import mock

from scoreboard import __main__ as scoreboard
from scoreboard import process


def scores(*deadly, artifacts=("dyn", "onnxsim", "bakehouse-size")):
    """What comes of scoring when those artifacts take the process down."""

    def run(module, limit, folder, task, *pairs):
        names = [pair.split("=")[0] for pair in pairs]
        if any(name in deadly for name in names):
            raise process.Failed("killed by SIGSEGV")
        return {"evaluation": {}, "rows": {name: {"error": None} for name in ["fp32", *names]}}

    with mock.patch.object(scoreboard, "run", run), contextlib.redirect_stderr(io.StringIO()):
        return scoreboard.scores("task", {name: f"{name}.onnx" for name in artifacts})["rows"]


class Scores(unittest.TestCase):
    def test_an_artifact_that_takes_the_runtime_down_is_a_row_and_the_others_are_scored(self):
        self.assertEqual(
            scores("dyn"),
            {"fp32": {"error": None}, "onnxsim": {"error": None}, "bakehouse-size": {"error": None}, "dyn": {"error": "killed by SIGSEGV"}},
        )

    def test_where_all_take_it_down_fp32_is_left(self):
        rows = scores("dyn", "onnxsim", "bakehouse-size")
        self.assertEqual([name for name, row in rows.items() if not row["error"]], ["fp32"])

    def test_a_task_whose_own_model_cannot_be_scored_ends_the_run(self):
        failing = mock.patch.object(scoreboard, "run", side_effect=process.Failed("killed by SIGSEGV"))
        with failing, self.assertRaisesRegex(SystemExit, "task cannot be scored: killed by SIGSEGV"):
            scoreboard.scores("task", {})


class Errors(unittest.TestCase):
    def test_an_error_names_no_folder_of_this_machine(self):
        row = scoreboard.without_paths({"error": f"Load model from {scoreboard.place.FOLDER}/baked/a.onnx failed"})
        self.assertEqual(row, {"error": "Load model from baked/a.onnx failed"})
