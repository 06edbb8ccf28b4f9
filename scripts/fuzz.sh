#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs each fuzz target for some seconds (or those named), from the corpus in fuzz/corpus and into fuzz/.build/found.
# A crash, an input that takes more than a second, or more than 512 MB ends the run with status 1 and leaves the input.
#     scripts/fuzz.sh SECONDS [TARGET...]
# With KEEP=1 what was found is merged into the corpus afterwards.
set -euo pipefail
cd "$(dirname "$0")/.." || exit 1

seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET...]}
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(find fuzz/corpus -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort)
fi
swift build --configuration release --package-path fuzz -Xswiftc -sanitize=fuzzer,address --disable-dead-strip 2>&1 | tail -n 1
program=fuzz/.build/release/fuzz
# The sanitizers tell more than Swift's own backtraces, which would stop to look at the process.
export SWIFT_BACKTRACE=enable=no ASAN_OPTIONS=detect_leaks=0
failed=()
for target in "${targets[@]}"; do
    export FUZZ_TARGET=$target
    found=fuzz/.build/found/$target
    mkdir -p "$found" "fuzz/corpus/$target" fuzz/.build/crashes
    FUZZ_SEEDS=$found "$program"
    log=fuzz/.build/$target.log
    if ! timeout $((seconds + 120)) "$program" -max_total_time="$seconds" -timeout=1 -rss_limit_mb=512 -max_len=4096 \
        -artifact_prefix="fuzz/.build/crashes/$target-" "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
        failed+=("$target")
        grep -E "ERROR|SUMMARY|broken promise|Fatal error|Test unit written" "$log" || tail -n 5 "$log"
    fi
    echo "$target: $(grep -E '^#[0-9]+.*(DONE|NEW|REDUCE|pulse)' "$log" | tail -n 1)"
    if [ "${KEEP:-}" = 1 ]; then
        "$program" -merge=1 -max_len=4096 "fuzz/corpus/$target" "$found" >>"$log" 2>&1
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}; the inputs lie in fuzz/.build/crashes"
    exit 1
fi
