#!/usr/bin/env python3
"""Computes the expected statistics of tests_test.go with SciPy and NumPy.

    python3 make_fixtures.py > fixtures.json     # Debian 12: python3-scipy 1.10.1, python3-numpy 1.24.2
"""
import json
import sys

import numpy as np
from scipy import optimize, special, stats
from scipy.spatial import distance

rng = np.random.default_rng(7)


def shares(sample, edges):
    """Returns the fraction of the sample in each bin: (-inf,e0], (e0,e1], ..., (ek,inf)."""
    return np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(edges) + 1) / len(sample)


def psi(p, q):
    p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
    return float(np.sum((q - p) * np.log(q / p)))


def numbers(name, a, b):
    a, b = np.sort(a), np.sort(b)
    edges = np.unique(np.quantile(a, np.arange(1, 10) / 10, method="inverted_cdf"))
    p, q = shares(a, edges), shares(b, edges)
    ks = stats.ks_2samp(a, b, mode="exact")
    return {
        "name": name, "a": a.tolist(), "b": b.tolist(),
        "ks": ks.statistic, "ks_p": ks.pvalue,
        "wasserstein": stats.wasserstein_distance(a, b) / np.std(a),
        "psi": psi(p, q), "jensen_shannon": float(distance.jensenshannon(p, q, base=2)),
    }


def categories(name, a, b):
    chi2, p, _, _ = stats.chi2_contingency([a, b], correction=False)
    a, b = np.array(a, float), np.array(b, float)
    p_a, p_b = a / a.sum(), b / b.sum()
    return {
        "name": name, "a": a.tolist(), "b": b.tolist(), "chi_square": chi2, "p": p,
        "psi": psi(p_a, p_b), "jensen_shannon": float(distance.jensenshannon(p_a, p_b, base=2)),
    }


def mmd(x, y, labels, kernel):
    n, m = len(x), len(y)
    first, second = labels == 0, labels == 1
    within = lambda s, n: (kernel[np.ix_(s, s)].sum() - np.trace(kernel[np.ix_(s, s)])) / (n * (n - 1))
    return within(first, n) + within(second, m) - 2 * kernel[np.ix_(first, second)].mean()


def auc(x, y):
    """AUC of the out-of-fold scores of L2-penalized logistic regression, fitted by a general optimizer."""
    rows, labels = np.vstack([x, y]), np.r_[np.zeros(len(x)), np.ones(len(y))]
    fold, scores = np.arange(len(rows)) % 5, np.zeros(len(rows))
    for k in range(5):
        learn = fold != k
        mean, std = rows[learn].mean(0), rows[learn].std(0)
        z = (rows - mean) / std
        sign = 2 * labels[learn] - 1

        def loss(w):
            margin = sign * (z[learn] @ w[:-1] + w[-1])
            return np.logaddexp(0, -margin).sum() + 0.5 * (w[:-1] ** 2).sum()

        def slope(w):
            pull = -sign * special.expit(-sign * (z[learn] @ w[:-1] + w[-1]))
            return np.r_[z[learn].T @ pull + w[:-1], pull.sum()]

        w = optimize.minimize(loss, np.zeros(z.shape[1] + 1), jac=slope, method="BFGS", options={"gtol": 1e-9}).x
        scores[~learn] = z[~learn] @ w[:-1] + w[-1]
    u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    return u / (len(x) * len(y))


def vectors(name, x, y):
    both = np.vstack([x, y])
    d = distance.pdist(both)
    kernel = np.exp(-distance.squareform(d) ** 2 / (2 * np.median(d) ** 2))
    labels = np.r_[np.zeros(len(x), int), np.ones(len(y), int)]
    observed = mmd(x, y, labels, kernel)
    drawn = [mmd(x, y, rng.permutation(labels), kernel) for _ in range(10000)]
    return {
        "name": name, "a": x.tolist(), "b": y.tolist(), "mmd": observed,
        "mmd_p": (1 + sum(v >= observed for v in drawn)) / 10001, "auc": auc(x, y),
    }


x4 = rng.normal(size=(60, 4))
json.dump({
    "numbers": [
        numbers("same distribution", rng.normal(size=120).round(6), rng.normal(size=90).round(6)),
        numbers("shifted", rng.normal(size=110).round(6), rng.normal(1.5, 1, size=130).round(6)),
        numbers("scaled", rng.normal(size=100).round(6), rng.normal(0, 2, size=100).round(6)),
        numbers("ties", rng.integers(0, 6, size=100).astype(float), rng.integers(1, 7, size=80).astype(float)),
        numbers("disjoint", rng.random(50).round(6), (2 + rng.random(60)).round(6)),
    ],
    "categories": [
        categories("two equal", [52, 48], [230, 241]),
        categories("two changed", [1000, 1000], [600, 900]),
        categories("four", [400, 30, 10, 60], [300, 90, 12, 20]),
        categories("new category", [500, 100, 0], [300, 150, 60]),
    ],
    "kolmogorov": [[x, float(special.kolmogorov(x))] for x in (0.1, 0.3, 0.5, 0.8, 0.999, 1.0, 1.2, 1.6276, 2.5, 5.0)],
    "vectors": [
        vectors("same distribution", x4.round(4), rng.normal(size=(50, 4)).round(4)),
        vectors("slightly shifted", x4.round(4), rng.normal(0.25, 1, size=(55, 4)).round(4)),
        vectors("shifted", x4.round(4), rng.normal(0.8, 1, size=(50, 4)).round(4)),
        vectors("scaled", x4.round(4), rng.normal(0, 2, size=(50, 4)).round(4)),
    ],
}, sys.stdout)
sys.stdout.write("\n")
