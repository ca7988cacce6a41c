#!/bin/sh
# The numbers of README's table of sizes that need no other compiler and no packages are still true.
# Usage: sizes.sh     prints TAP lines; `make sizes-update` writes the table anew
exec "${PYTHON:-python3}" tools/sizes.py -B "${BUILD:-build}" --here --compare
