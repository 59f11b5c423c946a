"""`fieldline analytics serve`: the dashboard.

    browser ── access.py (host, origin, session) ── frame.py (heading, navigation) ── pages/*.py
                                                                                        │
                                               queries/*.sql ◀── asking.py (threads, limits, cancel) ──▶ ClickHouse

It is NiceGUI (decision 0027): a page is Python, and what changes goes to the browser over a websocket. Nothing is
loaded from another host. A page is a file in `pages/` with a function that builds it, and a line in `serve.pages`.

ClickHouse is asked in threads, `asking.THREADS` at once; each query has a limit of time, and one whose page was closed
is killed. What goes wrong is a sentence in the page, which goes on asking and recovers by itself.
"""
