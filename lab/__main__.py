"""`python -m lab`, which `./dev lab` runs."""

from lab.cli import main

main()
