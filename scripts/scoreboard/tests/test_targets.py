import unittest

from scoreboard import targets
from scoreboard.tests import samples


def verdicts(task, **rows):
    found = targets.of_artifacts(samples.figures(task, **rows)["tasks"])
    return {entry["figure"]: (entry["met"], entry.get("judged")) for entry in found}


class OfArtifacts(unittest.TestCase):
    good = dict(metric=0.985, speedup=4.4, bytes_=720 * 1024)

    def test_an_artifact_that_keeps_every_bound_meets_all(self):
        found = verdicts("silero_seq", **{"bakehouse-latency": samples.baked(**self.good)})
        self.assertEqual(set(found.values()), {(True, "latency")})

    def test_one_artifact_must_keep_all_bounds_not_each_another_one(self):
        small = samples.baked(**{**self.good, "speedup": 1.0})
        fast = samples.baked(**{**self.good, "bytes_": 721 * 1024})
        found = verdicts("silero_seq", **{"bakehouse-size": small, "bakehouse-latency": fast})
        self.assertEqual(found, {"true metric": (True, "latency"), "KB": (False, "latency"), "speedup": (True, "latency")})

    def test_no_artifact_meets_nothing(self):
        failed = {"error": "exit code 70"}
        found = verdicts("silero_seq", **{"bakehouse-size": failed, "bakehouse-latency": failed})
        self.assertEqual({met for met, _ in found.values()}, {False})

    def test_a_bound_below_fp32_follows_the_samples(self):
        for fp32, met in [(0.95, True), (0.96, False)]:
            found = verdicts("magika", fp32=samples.row(metric=fp32), **{"bakehouse-latency": samples.baked(metric=0.946, speedup=3.0, bytes_=1)})
            self.assertEqual(found["true metric"], (met, "latency"))

    def test_a_peer_is_matched_when_the_intervals_meet(self):
        dyn = samples.row(metric=0.96, speedup=1.80)
        ruined = samples.row(metric=0.5, speedup=9.0)
        for speedup, met in [(1.72, True), (1.68, False)]:
            found = verdicts("mlp_mnist", dyn=dyn, st_minmax=ruined, **{"bakehouse-latency": samples.baked(speedup=speedup, bytes_=1)})
            self.assertEqual(found["speedup"], (met, "latency"))

    def test_what_a_later_level_owes_is_listed_and_not_counted(self):
        self.assertEqual(verdicts("mlp_mnist")["all ternary (level Maximum)"], (None, None))


    def test_a_model_is_reached_when_all_its_bounds_are_kept(self):
        found = targets.of_artifacts({**samples.figures("silero_seq", **{"bakehouse-latency": samples.baked(**self.good)})["tasks"], **samples.figures("mlp_mnist")["tasks"]})
        self.assertEqual(targets.models_reached(found), (1, 2))


class OfBakes(unittest.TestCase):
    def costs(self, start=0.004, **rows):
        return {e["figure"]: e["met"] for e in targets.of_bakes(samples.figures(**rows)["tasks"], start)}

    def static(self, seconds):
        return samples.baked(static={"candidate": "static-int8", "samples": 64, "tensors": 9, "calibrationSeconds": seconds, "passSeconds": 0.1})

    def test_a_third_of_the_time_of_minmax_is_asked(self):
        figure = "one static candidate, calibration included"
        for seconds, met in [(0.15, True), (0.3, False)]:
            both = {"bakehouse-size": self.static(seconds), "bakehouse-latency": self.static(seconds)}
            self.assertIs(self.costs(st_minmax=samples.row(seconds=0.9), **both)[figure], met)

    def test_a_minmax_that_failed_is_replaced_by_the_experts_and_without_both_nothing_is_judged(self):
        figure = "one static candidate, calibration included"
        both = {"bakehouse-size": self.static(0.1), "bakehouse-latency": self.static(0.1)}
        failed = {"error": "InvalidGraph", "loadSeconds": 0.1, "seconds": 0.01}
        self.assertIs(self.costs(st_minmax=failed, st3_minmax_mm=samples.row(seconds=0.9), **both)[figure], True)
        self.assertIsNone(self.costs(st_minmax=failed, **both)[figure])

    def test_a_report_without_calibration_is_not_judged(self):
        self.assertIsNone(self.costs(st_minmax=samples.row(seconds=0.9))["one static candidate, calibration included"])

    def test_a_search_has_the_pace_of_all_that_it_ran_where_that_is_enough(self):
        figure = "20 models at the pace of the search"
        for models, seconds, met in [(100, 49.0, True), (100, 51.0, False), (9, 1.0, None)]:
            row = samples.baked(search={"models": models, "seconds": seconds})
            self.assertIs(self.costs(**{"bakehouse-latency": row}).get(figure), met)

    def test_the_higher_peak_of_the_two_bakes_counts(self):
        self.assertTrue(self.costs()["peak memory of a bake"])
        self.assertFalse(self.costs(**{"bakehouse-size": samples.baked(peakBytes=401e6)})["peak memory of a bake"])

    def test_a_slow_start_is_a_miss(self):
        self.assertFalse(self.costs(start=0.03)["start of the program"])
