# SPDX-License-Identifier: Apache-2.0
"""The function that chooses the matrix's rows."""
from pairs import covering_rows, pairs_of, possible_pairs

FACTORS = {"a": [1, 2, 3], "b": ["x", "y"], "c": [True, False], "d": ["p", "q", "r"]}


def covered(rows):
    return set().union(*(pairs_of(row, list(FACTORS)) for row in rows))


def test_every_pair_is_covered():
    rows = covering_rows(FACTORS)
    assert covered(rows) == possible_pairs(FACTORS)
    # 3 * 3 values of the two largest factors are the least; the whole product would be 36.
    assert 9 <= len(rows) <= 12


def test_a_row_that_is_not_allowed_is_never_chosen_and_its_other_pairs_still_are():
    def allowed(row):
        return not (row["a"] == 1 and row["b"] == "x")

    rows = covering_rows(FACTORS, allowed)
    assert all(allowed(row) for row in rows)
    assert covered(rows) == possible_pairs(FACTORS, allowed)
    assert (("a", 1), ("b", "x")) not in covered(rows)
    assert (("a", 1), ("c", True)) in covered(rows)


def test_the_rows_are_the_same_each_time():
    assert covering_rows(FACTORS) == covering_rows(FACTORS)


def test_nothing_allowed_gives_no_rows():
    assert not covering_rows(FACTORS, lambda row: False)
