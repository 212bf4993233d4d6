import json
import unittest

from scoreboard import page, targets
from scoreboard.tests import samples


def rendered(**rows):
    figures = samples.figures(**rows)
    figures["targets"] = targets.of_artifacts(figures["tasks"])
    figures["costs"] = targets.of_bakes(figures["tasks"], figures["startSeconds"])
    return page.render(json.loads(json.dumps(figures)))


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


class Page(unittest.TestCase):
    def test_each_table_has_as_many_cells_in_every_row_as_in_its_header(self):
        text = rendered(dyn={"error": "no"}, st_minmax=samples.row(seconds=1.0, loadSeconds=0.1, peakBytes=1e8))
        widths = None
        for line in text.splitlines():
            if not line.startswith("|"):
                widths = None
                continue
            cells = line.replace("\\|", "").count("|")
            widths = widths or cells
            self.assertEqual(cells, widths, line)

    def test_a_peer_that_failed_is_a_row_with_its_error(self):
        (line,) = lines_of(rendered(dyn={"error": "ValueError: of | two\nlines", "peakBytes": 5e7}), "| dyn ")
        self.assertTrue(line.endswith("| 50 | ValueError: of \\| two lines |"), line)

    def test_a_model_without_labels_has_no_true_metric(self):
        (line,) = lines_of(rendered(onnxsim=samples.row() | {"metric": None}), "| onnxsim ")
        self.assertTrue(line.startswith("| onnxsim | - | 0.9900 |"), line)

    def test_calibration_is_absent_until_a_report_has_it(self):
        self.assertIn("| silero_seq | size | absent | absent |", rendered())
        static = {"candidate": "static-int8", "samples": 64, "tensors": 9, "calibrationSeconds": 0.2, "passSeconds": 0.1}
        text = rendered(**{"bakehouse-size": samples.baked(static=static)}, st_minmax=samples.row(seconds=1.0))
        self.assertIn("| silero_seq | size | 0.200 (64 samples, 9 tensors) | 0.100 (static-int8) | 1.000 (st_minmax) | 0.31 |", text)

    def test_what_the_search_ran_stands_beside_the_candidates(self):
        text = rendered(**{"bakehouse-size": samples.baked(search={"models": 42, "seconds": 3.21})})
        self.assertIn("| 5 in 4.0 s | 42 in 3.2 s |", text)

    def test_a_gate_that_was_missed_stands_beside_the_candidate(self):
        (line,) = lines_of(rendered(**{"bakehouse-size": samples.baked(reason="GateFailed", missed=["Speedup >= 2: 1.5"])}), "| bakehouse-size ")
        self.assertIn("GateFailed: static-int8; Speedup >= 2: 1.5", line)
