"""What failed in a run, in words that a user understands."""

from typing import Any


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
