import unittest

from scoreboard import ours


def candidate(name, chosen, *seconds, outcome="Applied"):
    return {"name": name, "chosen": chosen, "passes": [{"name": "static-int8", "outcome": outcome, "seconds": s} for s in seconds]}


class Static(unittest.TestCase):
    calibration = {"seconds": 0.5, "samples": 64, "tensors": 12}

    def read(self, *candidates, calibration=calibration):
        return ours.static({"candidates": list(candidates), **({"calibration": calibration} if calibration else {})})

    def test_the_chosen_static_candidate_counts_with_all_its_passes(self):
        found = self.read(candidate("static-int8", False, 9.0), candidate("static-int8-unclipped", True, 0.25, 0.5))
        self.assertEqual(found, {"candidate": "static-int8-unclipped", "samples": 64, "tensors": 12, "calibrationSeconds": 0.5, "passSeconds": 0.75})

    def test_where_another_candidate_was_chosen_the_first_static_one_counts(self):
        other = {"name": "stored-int8", "chosen": True, "passes": [{"name": "weight-int8", "outcome": "Applied", "seconds": 3.0}]}
        self.assertEqual(self.read(other, candidate("static-int8", False, 0.25))["passSeconds"], 0.25)

    def test_without_calibration_or_static_candidate_there_is_nothing_to_read(self):
        self.assertIsNone(self.read(candidate("static-int8", True, 1.0), calibration=None))
        self.assertIsNone(self.read(candidate("static-int8", True, 1.0, outcome="RolledBack")))


class Graph(unittest.TestCase):
    def test_the_passes_of_candidates_are_no_graph_passes(self):
        passes = [{"name": "fold-bias", "seconds": 0.5}, {"name": "static-int8", "seconds": 9.0}]
        self.assertEqual(ours.graph_seconds({"passes": passes, "candidates": [candidate("static-int8", True, 9.0)]}), 0.5)
