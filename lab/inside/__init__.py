"""What runs inside hosts and guests: the standard library of Python alone, and nothing of vmferry.

The lab copies these files into them as they are.
"""
