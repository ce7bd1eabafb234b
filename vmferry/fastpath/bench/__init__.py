"""Benchmarks of the seven fast paths: off against on, in real guests on the host where they run.

`guest.py` starts guests, `../load/` is what works in them, `rows.py` keeps what was measured,
`run.py` interleaves the cases; each feature's folder has its `benchmark.py`.
"""
