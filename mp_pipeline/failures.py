"""Failures of a run as text for people: step errors and failed checks."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg


def root_error(error: Any) -> Any:  # noqa: ANN401 - the type is not public
    """Return the error that Dagster wrapped in one of its own; None stays None."""
    return error and (error.cause or error)


def format_error(error: Any) -> str:  # noqa: ANN401 - the type is not public
    """Return the message of an error without Dagster's wrapping and without its class name.

    Args:
        error: The error of an event of a run, or None.
    """
    error = root_error(error)
    if error is None:
        return "the run failed without an error"
    message = str(error.message).strip()
    head, _, rest = message.partition(": ")
    return rest if rest and head.endswith(str(error.cls_name)) else message


def format_failed_checks(
    evaluations: "Iterable[dg.AssetCheckEvaluation]", severity: str = "ERROR"
) -> list[str]:
    """Return one line for each check that failed with a severity: ``ERROR`` or ``WARN``."""
    return [
        f"check {evaluation.check_name} of {evaluation.asset_key.to_user_string()}: "
        f"{evaluation.description}"
        for evaluation in evaluations
        if not evaluation.passed and evaluation.severity.value == severity
    ]
