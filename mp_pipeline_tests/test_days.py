from datetime import date

import pytest
from mp_pipeline.spans import Span, gaps, spans


def days(*of_january: int) -> list[date]:
    return [date(2024, 1, day) for day in of_january]


@pytest.mark.parametrize(
    ("there", "together", "missing"),
    [
        ([], [], []),
        ([5], ["2024-01-05"], []),
        ([5, 6, 7], ["2024-01-05 to 2024-01-07"], []),
        ([5, 7], ["2024-01-05", "2024-01-07"], ["2024-01-06"]),
        (
            [1, 2, 5, 9, 10],
            ["2024-01-01 to 2024-01-02", "2024-01-05", "2024-01-09 to 2024-01-10"],
            ["2024-01-03 to 2024-01-04", "2024-01-06 to 2024-01-08"],
        ),
    ],
)
def test_spans_and_the_gaps_between_them(
    there: list[int], together: list[str], missing: list[str]
) -> None:
    assert [str(span) for span in spans(days(*there))] == together
    assert [str(gap) for gap in gaps(days(*there))] == missing
    assert sum(span.days for span in spans(days(*there))) == len(there)


def test_a_span_over_the_end_of_february() -> None:
    assert Span(date(2024, 2, 28), date(2024, 3, 1)).days == 3
