import random
import statistics
import unittest

from scoreboard import spread


class Spread(unittest.TestCase):
    def test_a_median_lies_in_its_interval_and_the_interval_in_the_data(self):
        for n in range(1, 60):
            values = [random.Random(n).gauss(0, 1) for _ in range(n)]
            found = spread.median(values)
            self.assertLessEqual(min(values), found["lower"])
            self.assertLessEqual(found["lower"], found["value"])
            self.assertLessEqual(found["value"], found["upper"])
            self.assertLessEqual(found["upper"], max(values))

    def test_the_interval_of_a_median_holds_the_true_one_about_95_times_in_100(self):
        rng = random.Random(1)
        found = [spread.median([rng.gauss(0, 1) for _ in range(40)]) for _ in range(1000)]
        self.assertGreater(sum(f["lower"] <= 0 <= f["upper"] for f in found), 930)

    def test_equal_values_have_no_spread(self):
        for of in (spread.median, spread.mean):
            self.assertEqual(of([2.0] * 9), {"value": 2.0, "lower": 2.0, "upper": 2.0, "n": 9})

    def test_the_jackknife_of_a_mean_is_the_interval_of_the_mean(self):
        values = [random.Random(i).gauss(5, 2) for i in range(400)]
        by_groups = spread.jackknife(len(values), lambda kept: statistics.fmean(values[i] for i in kept))
        plain = spread.mean(values)
        self.assertAlmostEqual(by_groups["value"], plain["value"])
        self.assertAlmostEqual((by_groups["upper"] - by_groups["value"]) / (plain["upper"] - plain["value"]), 1.0, delta=0.35)
