"""The page of ``mp-pipeline explore``: events, users, funnels and retention at a glance.

``queries`` reads the database, ``charts`` draws, ``app`` is the page, and ``command`` starts it.
``charts`` and ``app`` need the extra ``explore``.
"""
