"""The page, a marimo app. Each cell that queries runs again when a control that it names changes.

Text of events is shown in tables and charts only, which escape it, and never as Markdown or HTML.
"""

import marimo

app = marimo.App(width="medium", app_title="mp_pipeline")

with app.setup:
    from datetime import timedelta

    import marimo as mo

    from mp_pipeline.explore import charts, queries
    from mp_pipeline.settings import load_settings


@app.function
def answer(settings, retry, draw, query, *args):
    """Return what ``draw`` makes of the answer to a query, or what to do to get one."""
    try:
        return draw(queries.ask(settings, query, *args))
    except queries.UnavailableError as error:
        return mo.callout(mo.vstack([mo.plain_text(str(error)), retry]), kind="warn")


@app.function
def table(found):
    """Return a table to search and sort."""
    return mo.ui.table(
        found,
        selection=None,
        page_size=15,
        show_column_summaries=False,
        show_data_types=False,
        wrapped_columns=[name for name in found.columns if name == "properties"],
    )


@app.function
def retry_button():
    """Return a button that runs again the cells that name it."""
    return mo.ui.button(value=0, on_click=lambda clicks: clicks + 1, label="Retry")


@app.cell
def _():
    settings = load_settings()
    start = retry_button()  # reloads what the controls offer
    retry = retry_button()  # keeps days, events and steps as they are chosen
    return retry, settings, start


@app.cell
def _(settings, start):
    contents = answer(settings, start, lambda found: found, queries.contents)
    mo.stop(not isinstance(contents, queries.Contents), contents)
    first, last = contents.days[0], contents.days[-1]
    days = mo.ui.date_range(
        start=first, stop=last, value=(max(first, last - timedelta(days=29)), last), label="Days"
    )
    return contents, days


@app.cell
def _(contents, days, settings):
    topics = mo.ui.tabs(
        dict.fromkeys(["Overview", "Dictionary", "Funnel", "Retention", "User"], "")
    )
    database = mo.plain_text(f"{settings.database}  Days loaded: {len(contents.days):,}")
    mo.vstack([mo.hstack([database, days], align="center"), topics])
    return (topics,)


@app.cell
def _(days, retry, settings, topics):
    mo.stop(topics.value != "Overview")
    mo.vstack(
        [
            mo.md("### Events per day"),
            answer(settings, retry, charts.events_per_day, queries.events_per_day, *days.value),
            mo.md("### Active users: of the day (DAU), of 7 days (WAU), of 30 days (MAU)"),
            answer(settings, retry, charts.active_users, queries.active_users, *days.value),
        ]
    )
    return


@app.cell
def _(contents):
    event = mo.ui.dropdown(
        contents.events, value=contents.events[0], label="Event", searchable=True
    )
    return (event,)


@app.cell
def _(event, retry, settings):
    names = answer(settings, retry, lambda found: found, queries.property_names, event.value)
    names = names if isinstance(names, list) else []
    prop = mo.ui.dropdown(
        names, value=names[0] if names else None, label="Property", searchable=True
    )
    return (prop,)


@app.cell
def _(days, event, prop, retry, settings, topics):
    mo.stop(topics.value != "Dictionary")
    mo.vstack(
        [
            mo.md("### Events"),
            answer(settings, retry, table, queries.described_events),
            mo.md("### Properties of an event"),
            event,
            answer(settings, retry, table, queries.described_properties, event.value),
            mo.md("### Most frequent values of a property"),
            prop,
            answer(
                settings,
                retry,
                charts.top_values,
                queries.top_values,
                event.value,
                prop.value,
                *days.value,
            )
            if prop.value is not None
            else None,
        ]
    )
    return


@app.cell
def _(contents):
    steps = mo.ui.array(
        [
            mo.ui.dropdown(
                contents.events,
                value=contents.events[place] if place < min(2, len(contents.events)) else None,
                label=f"Step {place + 1}",
                searchable=True,
                allow_select_none=True,
            )
            for place in range(5)
        ]
    )
    window = mo.ui.number(1, 366, value=7, label="Window in days")
    return steps, window


@app.cell
def _(retry, settings, steps):
    chosen = [step for step in steps.value if step is not None]
    found = (
        answer(settings, retry, lambda names: names, queries.property_names, chosen[0])
        if chosen
        else []
    )
    breakdown = mo.ui.dropdown(
        found if isinstance(found, list) else [],
        label="Breakdown by a property of the first step",
        searchable=True,
        allow_select_none=True,
    )
    return breakdown, chosen


@app.cell
def _(breakdown, chosen, days, retry, settings, steps, topics, window):
    mo.stop(topics.value != "Funnel")

    def draw(found):
        return mo.vstack([charts.funnel(found), table(charts.funnel_table(found))])

    mo.vstack(
        [
            mo.hstack(list(steps), justify="start", wrap=True),
            mo.hstack([window, breakdown], justify="start", wrap=True),
            answer(
                settings,
                retry,
                draw,
                queries.funnel,
                chosen,
                *days.value,
                window.value,
                breakdown.value,
            )
            if chosen
            else mo.md("Choose the first step."),
        ]
    )
    return


@app.cell
def _(contents):
    birth, back = (
        mo.ui.dropdown(
            {"any event": None} | {name: name for name in contents.events},
            value="any event",
            label=label,
            searchable=True,
        )
        for label in ("Birth event", "Return event")
    )
    unit = mo.ui.dropdown(list(queries.BUCKETS), value="day", label="by")
    return back, birth, unit


@app.cell
def _(back, birth, days, retry, settings, topics, unit):
    mo.stop(topics.value != "Retention")
    mo.vstack(
        [
            mo.hstack([birth, back, unit], justify="start", wrap=True),
            mo.md(
                "Users who came back that many days, weeks or months after their first event, or "
                "later. Pale: that time is not over for all of them."
            ),
            answer(
                settings,
                retry,
                charts.retention,
                queries.retention,
                birth.value,
                back.value,
                *days.value,
                unit.value,
            ),
        ]
    )
    return


@app.cell
def _():
    user = mo.ui.text(label="User", placeholder="any of the user's IDs", full_width=True)
    return (user,)


@app.cell
def _(days, retry, settings, topics, user):
    mo.stop(topics.value != "User")
    mo.vstack(
        [
            user,
            mo.md("### Latest events (UTC)" if user.value else "### Most active users"),
            answer(settings, retry, table, queries.timeline, user.value.strip(), *days.value)
            if user.value
            else answer(settings, retry, table, queries.most_active_users, *days.value),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
