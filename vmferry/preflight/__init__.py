"""Preflight: what must hold before a move, one small check each, all reasons at once.

Data flows one way: `collect*` reads (QMP, /proc) and makes plain facts; a check is a pure function
of the facts; `registry` runs them all. Nothing here changes a VM or a destination.
"""
