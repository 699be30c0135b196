"""Numbers on the pages are short, in words where a count has a noun, and never nan."""

import math

from raygen.gallery.pages import count, number, percent, ratio


def test_numbers_are_short_and_no_number_is_a_dash():
    assert [number(x) for x in (0.0, 0.01234, 12.345, 2930.4, -0.5, 1e-9)] == [
        "0", "0.0123", "12.3", "2,930", "\N{MINUS SIGN}0.5", "1e-09",
    ]  # fmt: skip
    assert number(math.nan) == ratio(math.inf) == percent(math.nan) == "\N{EN DASH}"
    assert (ratio(1.0042), ratio(12.34)) == ("1.004", "12.3")
    assert [percent(x) for x in (0, 0.001, 0.5, 0.999, 1)] == ["0 %", "1 %", "50 %", "99 %", "100 %"]
    assert (count(1, "node"), count(1200, "node")) == ("1 node", "1,200 nodes")
