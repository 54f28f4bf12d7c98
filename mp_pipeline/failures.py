"""What failed in a run, in words that a user understands."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg


def unwrapped(error: Any) -> Any:  # noqa: ANN401 - the type is not public
    """Return an error of a run's event without Dagster's own around it; None stays None."""
    return error and (error.cause or error)


def words(error: Any) -> str:  # noqa: ANN401 - the type is not public
    """Return an error's message without the name of its class, which means nothing to a user.

    Args:
        error: an error of a run's event, as ``unwrapped`` returns it.
    """
    if error is None:
        return "the run failed without an error"
    message = str(error.message).strip()
    head, _, rest = message.partition(": ")
    return rest if rest and head.endswith(str(error.cls_name)) else message


def failed_checks(evaluations: "Iterable[dg.AssetCheckEvaluation]") -> list[str]:
    """Return what checks found wrong, in words; a warning is no failure."""
    return [
        f"check {evaluation.check_name} of {evaluation.asset_key.to_user_string()}: "
        f"{evaluation.description}"
        for evaluation in evaluations
        if not evaluation.passed and evaluation.severity.value == "ERROR"
    ]
