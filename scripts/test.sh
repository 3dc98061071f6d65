#!/usr/bin/env bash
# Sets up, then runs the tests. Options go to pytest: ./scripts/test.sh -m "not slow" -k matcher
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh
exec "${VENV:-.venv}/bin/python" -m pytest "$@"
