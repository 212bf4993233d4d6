import unittest

from scoreboard import regressions
from scoreboard.tests import samples


def compared(change=None, **rows):
    """What is worse when these rows replace those of a run, and `change` has been at its figures."""
    now = samples.figures(**rows)
    if change:
        change(now)
    return regressions.compare(now, samples.figures())


class Regressions(unittest.TestCase):
    def test_the_same_figures_are_no_regression(self):
        self.assertEqual(compared(), ([], []))

    def test_better_figures_are_no_regression(self):
        better = samples.baked(metric=0.99, speedup=3.0, bytes_=1, seconds=0.1, peakBytes=1)
        self.assertEqual(compared(**{"bakehouse-size": better}), ([], []))

    def test_each_figure_that_is_worse_by_more_than_its_spread_is_told(self):
        both = {"metric": {"metric": 0.947}, "peakBytes": {"peakBytes": 151e6}, "seconds": {"seconds": 6.1}}
        for goal, cases in {"size": both | {"bytes": {"bytes_": 1024 * 1101}}, "latency": both | {"speedup": {"speedup": 0.92}}}.items():
            for figure, change in cases.items():
                worse, _ = compared(**{f"bakehouse-{goal}": samples.baked(**change)})
                self.assertEqual(len(worse), 1, figure)
                self.assertTrue(worse[0].startswith(f"silero_seq, bakehouse-{goal}: {figure} "), worse)

    def test_an_artifact_is_held_to_what_its_goal_is_about(self):
        self.assertEqual(compared(**{"bakehouse-size": samples.baked(speedup=0.3)}), ([], []))
        self.assertEqual(compared(**{"bakehouse-latency": samples.baked(bytes_=10**9)}), ([], []))

    def test_what_is_within_its_spread_is_none(self):
        within = samples.baked(metric=0.949, speedup=0.96, bytes_=1024 * 1099, peakBytes=149e6, seconds=5.9)
        self.assertEqual(compared(**{"bakehouse-size": within, "bakehouse-latency": within}), ([], []))

    def test_an_artifact_that_is_gone_is_told_with_its_error(self):
        worse, _ = compared(**{"bakehouse-size": {"error": "exit code 70"}})
        self.assertEqual(worse, ["silero_seq, bakehouse-size: no artifact any more: exit code 70"])

    def test_another_cpu_leaves_out_what_depends_on_it_and_says_so(self):
        slow = {"bakehouse-latency": samples.baked(speedup=0.5, seconds=99.0)}
        worse, notes = compared(lambda now: now["machine"].update(cpu="Another"), **slow)
        self.assertEqual(worse, [])
        self.assertEqual(len(notes), 1)

    def test_a_model_without_labels_is_told_by_what_is_asked_of_it(self):
        unlabelled = lambda agreement: samples.baked() | {"metric": None, "agreement": samples.figure(agreement, 0.001)}
        now, before = (samples.figures("opennsfw", **{"bakehouse-size": unlabelled(agreement)}) for agreement in (0.98, 0.99))
        (worse,), _ = regressions.compare(now, before)
        self.assertIn("opennsfw, bakehouse-size: agreement 0.9900 -> 0.9800", worse)

    def test_the_seconds_of_a_busy_machine_are_not_compared(self):
        slow = {"bakehouse-size": samples.baked(seconds=99.0, peakBytes=200e6)}
        worse, notes = compared(lambda now: now["machine"].update(load=2.0), **slow)
        self.assertEqual((len(worse), len(notes)), (1, 1))
        self.assertIn("peakBytes", worse[0])

    def test_other_samples_are_not_compared(self):
        ruined = {"bakehouse-size": samples.baked(metric=0.1)}
        worse, notes = compared(lambda now: now["tasks"]["silero_seq"]["evaluation"].update(sha256="other"), **ruined)
        self.assertEqual((worse, len(notes)), ([], 1))

    def test_an_example_that_no_longer_ends_well_is_told(self):
        worse, _ = compared(lambda now: now["matrix"][0].update(reason="GateFailed"))
        self.assertEqual(worse, ["cnn at medium: ended well before, now GateFailed"])

    def test_an_example_whose_input_is_returned_has_lost_its_speedup(self):
        worse, _ = compared(lambda now: now["matrix"][0].update(speedup=None, retention=None, reason="NoImprovement"))
        self.assertEqual(len(worse), 1)
        self.assertIn("speedup 1.5000 -> 1.0000", worse[0])

    def test_a_retention_without_an_interval_has_no_spread(self):
        open_ = {"value": 0.9, "lower": None, "upper": None, "n": 9}
        worse, _ = compared(lambda now: now["matrix"][0].update(retention=open_))
        self.assertEqual(len(worse), 1)

    def test_a_task_that_was_left_out_of_this_run_is_not_missed(self):
        self.assertEqual(compared(lambda now: now["tasks"].clear()), ([], []))

    def test_without_committed_figures_nothing_is_worse(self):
        self.assertEqual(regressions.compare(samples.figures(), None)[0], [])
