"""The seven fast paths of KVM guests: set up, audited at three levels, measured.

`finding.py` has the words, `facts.py` what may be known; `collect_*.py` read it and change nothing;
a folder for each of the seven has `judge.py` (facts to findings, no I/O) and `configure.py` (a
specification made right, with reasons). `audit.py` puts an audit together.
"""
