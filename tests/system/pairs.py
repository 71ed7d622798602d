# SPDX-License-Identifier: Apache-2.0
"""A small set of rows in which every pair of values of every two factors occurs."""
from itertools import combinations, product


def pairs_of(row, names):
    """The pairs of (factor, value) that a row (a dictionary) holds."""
    return {((a, row[a]), (b, row[b])) for a, b in combinations(names, 2)}


def possible_pairs(factors, allowed=lambda row: True):
    """All pairs that occur in at least one allowed row of the full product."""
    names = list(factors)
    found = set()
    for values in product(*factors.values()):
        row = dict(zip(names, values))
        if allowed(row):
            found |= pairs_of(row, names)
    return found


def covering_rows(factors, allowed=lambda row: True):
    """
    Rows that together hold every possible pair: again and again the one row of the full product
    that covers the most pairs not covered yet, the first among equals. So the same factors always
    give the same rows. @factors: {name: [values]}.
    """
    names = list(factors)
    rows = [dict(zip(names, values)) for values in product(*factors.values())]
    rows = [(row, pairs_of(row, names)) for row in rows if allowed(row)]
    missing = set().union(*(pairs for _, pairs in rows)) if rows else set()
    chosen = []
    while missing:
        row, pairs = max(rows, key=lambda r: len(r[1] & missing))
        chosen.append(row)
        missing -= pairs
    return chosen
