"""Intervals of what was measured. Standard library only."""

import math
import statistics

# Two-sided 95 % point of the normal distribution.
Z = 1.96


def median(values):
    """{value, lower, upper, n}: the median with its 95 % interval by order statistics, which assumes nothing of the distribution (Conover, Practical Nonparametric
    Statistics, section 3.2)."""
    ordered, n = sorted(values), len(values)
    reach = Z * math.sqrt(n) / 2
    lower = max(math.floor(n / 2 - reach), 1)
    upper = min(math.ceil(n / 2 + reach) + 1, n)
    return {"value": statistics.median(ordered), "lower": ordered[lower - 1], "upper": ordered[upper - 1], "n": n}


def mean(values):
    """{value, lower, upper, n}: the mean with its 95 % interval."""
    values = list(values)
    middle, n = statistics.fmean(values), len(values)
    reach = Z * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    return {"value": middle, "lower": middle - reach, "upper": middle + reach, "n": n}


def jackknife(n, statistic, groups=20):
    """{value, lower, upper, n} of `statistic`, a function of the indices of the samples that count: each group is left out once (delete-group jackknife)."""
    everything = list(range(n))
    value = statistic(everything)
    without = [statistic([i for i in everything if i % groups != group]) for group in range(groups)]
    middle = statistics.fmean(without)
    reach = Z * math.sqrt((groups - 1) / groups * sum((w - middle) ** 2 for w in without))
    return {"value": value, "lower": value - reach, "upper": value + reach, "n": n}
