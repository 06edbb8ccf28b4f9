#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs all tests, or those whose names match the argument. The last line says how many passed and how many failed; the exit status is 0 only if none
# failed and the run came to its end.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
swift=${SWIFT:-swift}

if ! "$swift" build --build-tests; then
    echo "0 passed, 1 failed"
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$swift" test --skip-build --disable-xctest ${1:+--filter "$1"} 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

# One line per test function; not those of suites, of single arguments and of the run as a whole.
counts=$(awk '
    /Test run with / || /Test case / { next }
    /^[^A-Za-z]*Test .* passed after [0-9.]+ seconds/ { passed++ }
    /^[^A-Za-z]*Test .* failed after [0-9.]+ seconds/ { failed++; print "FAILED: " $0 > "/dev/stderr" }
    END { printf "%d %d\n", passed, failed }' "$log")
read -r passed failed <<<"$counts"

# A run that ended otherwise than by its own verdict (a crash, nothing to run) has failed.
if [ "$failed" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$passed" -eq 0 ]; }; then
    echo "The test run ended with status $status after $passed tests" >&2
    failed=1
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
