#!/bin/sh
# vmferry of the checkout that the lab was started from.
export PYTHONPATH=/lab/code:/lab/libraries
exec python3 -c 'import sys; from vmferry.cli.main import main; sys.exit(main())' "$@"
