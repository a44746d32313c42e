#!/usr/bin/env bash
# All tests, in two processes: those that start clusters, containers and programs mostly wait, and the others mostly work.
# Each half has servers and files of its own. What this prints of the second half comes when the first has ended.
set -uo pipefail
cd "$(dirname "$0")/.."
waiting=(tests/agent tests/benchmarks tests/chaos tests/cli tests/integration)
mkdir -p .cache

.venv/bin/python -m pytest -o cache_dir=.pytest_cache/others tests "${waiting[@]/#/--ignore=}" >.cache/tests-others.log 2>&1 &
others=$!
trap 'kill -INT "$others" 2>/dev/null' INT TERM
.venv/bin/python -m pytest "${waiting[@]}"
first=$?
wait "$others"
second=$?
cat .cache/tests-others.log
test "$first" -eq 0 || echo "tests failed in ${waiting[*]}"
test "$second" -eq 0 || echo "tests failed in the other folders"
exit $((first != 0 || second != 0))
