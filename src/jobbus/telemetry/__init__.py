"""How jobbus is watched: metrics, traces, fields of logs, and the endpoint that shows them.

:mod:`~jobbus.telemetry.names` lists every name. Counting happens in plain Python
(:mod:`~jobbus.telemetry.tally`), and is read when somebody scrapes; nothing here has a say in the
work.
"""
