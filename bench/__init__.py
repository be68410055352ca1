"""Benchmarks of the kernel and the fleet beside their nearest peers, run as `python -m bench` from the repository root.

Nothing here ships. One module measures one group of figures; `peers` starts and ends the processes,
`rawclient` speaks to them, `load` is the load generator's own process, `report` holds the records and
renders them.
"""
