#!/bin/sh
# Guests of this host: see lab/inside/guests.py.
PYTHONPATH=/lab/python exec python3 -m lab.inside.guests "$@"
