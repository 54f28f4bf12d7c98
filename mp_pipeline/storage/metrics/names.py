"""Names of the views and macros of a dataset."""


def name_of(table: str, what: str) -> str:
    """Return the name of a view or macro that is made from a dataset or table.

    Args:
        table: The view over day tables, or the table of profiles.
        what: The name that it has if these are called ``events`` or ``profiles``.

    Example:
        >>> name_of("events", "sessions"), name_of("shop_profiles", "profiles_at")
        ('sessions', 'shop_profiles_at')
        >>> name_of("clicks", "sessions")
        'clicks_sessions'
    """
    prefix = table.lower()
    for usual in ("events", "profiles"):
        if prefix == usual or prefix.endswith(f"_{usual}"):
            return prefix.removesuffix(usual) + what
    return f"{prefix}_{what}"
