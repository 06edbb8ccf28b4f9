#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Explores spec/push.pml with Spin: all states of a small phase 3. One line per check; the exit status is 0 only if all
# came out as expected.
set -uo pipefail
model=$(cd "$(dirname "$0")/../spec" && pwd)/push.pml

for tool in spin gcc; do
    command -v "$tool" >/dev/null || { echo "model: $tool is missing: install the Debian package $tool" >&2; exit 1; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0

# explore TITLE EXPECTED-ERRORS SPIN-OPTIONS COMPILER-OPTIONS RUN-OPTIONS
explore() {
    local title=$1 expected=$2 output errors states
    # shellcheck disable=SC2086  # options are words
    if ! spin $3 -a "$model" >spin.log 2>&1 || ! gcc -O2 -w $4 -o explore pan.c 2>gcc.log; then
        cat spin.log gcc.log 2>/dev/null
        echo "failed: $title: the model does not compile"
        failures=$((failures + 1))
        return
    fi
    # shellcheck disable=SC2086
    output=$(timeout 300 ./explore $5 -m1000000 2>&1)
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' <<<"$output")
    states=$(sed -n 's/ *\([0-9]*\) states, stored.*/\1/p' <<<"$output")
    if grep -q 'max search depth too small\|out of memory' <<<"$output" || [ "${errors:-none}" != "$expected" ]; then
        echo "failed: $title: ${errors:-no} errors where $expected were expected"
        echo "$output" | head -n 20
        failures=$((failures + 1))
    else
        echo "ok: $title ($states states)"
    fi
}

explore "what the sender uses opens at every confirmed receiver; every member is confirmed or named; no deadlock" 0 \
    "" "-DSAFETY" ""
explore "every run comes to its end" 0 "" "-DNP" "-l"
explore "a receiver that forgets by the clock breaks the promise, and it shows" 1 "-DFORGET_BY_CLOCK" "-DSAFETY" ""
[ "$failures" -eq 0 ]
