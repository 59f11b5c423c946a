"""Alerts: rules over the tables that tell somebody when a turbine overheats or a gateway falls silent.

    rules.py       what a rule is (TOML, or a row of `fieldline.alert_rules`)
    conditions.py  each kind of rule as one SQL query: for which subjects it is met, and for which it is over
    state.py       what happened to each subject, and what follows from a new look at it; pure
    store.py       the events in ClickHouse: the only state, so that a restart changes nothing
    channels.py    how people are told: log, webhook, MQTT, e-mail
    run.py         the loop: ask, compare, store, tell

A subject is a device and metric, a device, or a gateway. An alert of a rule and subject is `firing` from the event that
says so to the one that says `resolved`. A change is one event, stored before anybody is told; that a channel was told
is stored after it took it. So a kill in between repeats a notification (with the same ids), and loses none.
"""
