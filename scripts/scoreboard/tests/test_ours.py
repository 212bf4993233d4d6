import pathlib
import unittest
from unittest import mock

import bakes
from scoreboard import ours, place


def candidate(name, chosen, *seconds, outcome="Applied"):
    return {"name": name, "chosen": chosen, "passes": [{"name": "static-int8", "outcome": outcome, "seconds": s} for s in seconds]}


class Static(unittest.TestCase):
    calibration = {"seconds": 0.5, "samples": 64, "tensors": 12}

    def read(self, *candidates, calibration=calibration):
        return ours.static({"candidates": list(candidates), **({"calibration": calibration} if calibration else {})})

    def test_the_chosen_static_candidate_counts_with_all_its_passes(self):
        found = self.read(candidate("static-int8", False, 9.0), candidate("static-int8-unclipped", True, 0.25, 0.5))
        self.assertEqual(found, {"candidate": "static-int8-unclipped", "samples": 64, "tensors": 12, "calibrationSeconds": 0.5, "passSeconds": 0.75})

    def test_what_was_tried_and_rolled_back_and_repairs_are_no_cost_of_a_static_candidate(self):
        made = candidate("static-int8", True, 0.25)
        made["passes"] += [{"name": "measured-ranges", "outcome": "RolledBack", "seconds": 9.0}, {"name": "round-weights", "outcome": "Applied", "seconds": 9.0}]
        self.assertEqual(self.read(made)["passSeconds"], 0.25)

    def test_where_another_candidate_was_chosen_the_first_static_one_counts(self):
        other = {"name": "stored-int8", "chosen": True, "passes": [{"name": "weight-int8", "outcome": "Applied", "seconds": 3.0}]}
        self.assertEqual(self.read(other, candidate("static-int8", False, 0.25))["passSeconds"], 0.25)

    def test_without_calibration_or_static_candidate_there_is_nothing_to_read(self):
        self.assertIsNone(self.read(candidate("static-int8", True, 1.0), calibration=None))
        self.assertIsNone(self.read(candidate("static-int8", True, 1.0, outcome="RolledBack")))


class Rows(unittest.TestCase):
    def made(self, task):
        """The rows of a task, and level, goal and gates of each bake."""
        asked = {}

        def bake_task(program, task, level, goal, out, folder, limit, gates):
            asked[out.name] = (level, goal, dict(gates))
            raise bakes.Failed("no artifact here")

        with mock.patch.object(bakes, "bake_task", bake_task), mock.patch.object(place, "baked", lambda *_: pathlib.Path("/nonexistent/model.onnx")):
            rows = ours.rows("program", task, "medium", 600)
        self.assertEqual({row["error"] for row in rows.values()}, {"no artifact here"})
        return list(rows), asked

    def test_a_task_without_gates_of_its_own_is_baked_once_for_each_goal(self):
        rows, asked = self.made("ppocr_cls")
        self.assertEqual(rows, ["bakehouse-size", "bakehouse-latency"])
        self.assertEqual(asked, {f"ppocr_cls-bakehouse-{goal}": ("medium", goal, {}) for goal in ("size", "latency")})

    def test_one_with_gates_of_its_own_is_baked_by_the_default_ones_too(self):
        rows, asked = self.made("opennsfw")
        self.assertEqual(rows, ["bakehouse-size", "bakehouse-latency", ours.BY_DEFAULT_GATES])
        self.assertEqual(asked[f"opennsfw-{ours.BY_DEFAULT_GATES}"], ("medium", "latency", {}))
        self.assertEqual(asked["opennsfw-bakehouse-latency"][2], dict(ours.GATES["opennsfw"]))


class Graph(unittest.TestCase):
    def test_the_passes_of_candidates_are_no_graph_passes(self):
        passes = [{"name": "fold-bias", "seconds": 0.5}, {"name": "static-int8", "seconds": 9.0}]
        self.assertEqual(ours.graph_seconds({"passes": passes, "candidates": [candidate("static-int8", True, 9.0)]}), 0.5)
