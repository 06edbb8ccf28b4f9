# SPDX-License-Identifier: Apache-2.0
# What the gateway tests share: reporting, wiring, the probes in gwA and gwB, and the agents beside them. Sourced with
# `probe` and `here` set, inside the namespaces.

python=/usr/bin/python3
failures=0

ok() { echo "ok: $1"; }
fail() { echo "FAIL: $1"; failures=$((failures + 1)); }
# check TEXT COMMAND...: the command decides.
check() {
    local text=$1
    shift
    if "$@" >/dev/null 2>&1; then ok "$text"; else fail "$text [$*]"; fi
}
# The field NAME of the line in FILE: values are written name=value.
field() { grep -o "\b$2=[^ ]*" "$1" | tail -1 | cut -d= -f2; }
is() { # TEXT FILE NAME EXPECTED
    local got
    got=$(field "$2" "$3")
    if [ "$got" = "$4" ]; then ok "$1"; else fail "$1: $3 is '$got', not '$4' ($(tr '\n' '|' <"$2" | cut -c1-300))"; fi
}
within() { ip netns exec "$@"; }
tool() { local place=$1; shift; ip netns exec "$place" $python "$here/gateway_tools.py" "$@"; }
# Waits until FILE has a line that matches.
await() {
    for _ in $(seq 200); do
        grep -q "$2" "$1" 2>/dev/null && return 0
        sleep 0.02
    done
    fail "waited in vain for '$2' in $1: $(cat "$1" 2>/dev/null)"
    return 1
}

wire() { # NAMESPACE INTERFACE ADDRESS NAMESPACE INTERFACE [ADDRESS]
    ip link add "$2" netns "$1" type veth peer name "$5" netns "$4"
    [ "$3" = - ] || within "$1" ip addr add "$3" dev "$2"
    [ "${6--}" = - ] || within "$4" ip addr add "$6" dev "$5"
    within "$1" ip link set "$2" up
    within "$4" ip link set "$5" up
}

# --- Starting and telling the probes --------------------------------------------------------------------------------
declare -A probe_pid
start() { # GATEWAY ARGUMENT...
    local place=$1 sender=1
    shift
    [ "$place" = gwB ] && sender=2
    : >"$place.log"
    ip netns exec "$place" "$probe" sender=$sender "$@" <"$place.in" >"$place.log" 2>&1 &
    probe_pid[$place]=$!
    if [ "$place" = gwA ]; then exec 5>"$place.in"; else exec 6>"$place.in"; fi
    # Nothing that follows would make sense without it.
    await "$place.log" '^ready' || exit 1
}
tell() { # GATEWAY LINE
    local before
    before=$(wc -l <"$1.log")
    if [ "$1" = gwA ]; then echo "$2" >&5; else echo "$2" >&6; fi
    for _ in $(seq 200); do
        [ "$(wc -l <"$1.log")" -gt "$before" ] && break
        sleep 0.02
    done
    tail -1 "$1.log" >"$1.answer"
    case $(cat "$1.answer") in ok | mtu=*) ;; *) fail "$1: '$2' was answered '$(cat "$1.answer")'" ;; esac
}
status() { tell "$1" status; }
# GATEWAY SPI COUNT: waits until the SA has sent that many packets.
sent() {
    for _ in $(seq 100); do
        status "$1"
        [ "$(field "$1.answer" "outbound-$2")" -ge "$3" ] && return
        sleep 0.02
    done
    fail "$1 never sent $3 packets with SA $2"
}
end() { # GATEWAY: waits for the probe's end
    wait "${probe_pid[$1]}" 2>/dev/null
    if [ "$1" = gwA ]; then exec 5>&-; else exec 6>&-; fi
}

# Not by a function: the process to end must be the sniffer itself, which `ip netns exec` replaces itself by.
sniff() {
    : >"$1"
    ip netns exec out $python "$here/gateway_tools.py" sniff --interface sat0 >"$1" &
    sniffer=$!
    await "$1" '^ready'
}
unsniff() { sleep 0.15; kill -TERM $sniffer; wait $sniffer; }
# A receiver in the background, for as long as it takes: it ends when it has its count, or is told to.
declare -A receivers
hear() { # FILE NAMESPACE ARGUMENT...
    local file=$1 place=$2
    shift 2
    : >"$file" # an earlier one's `ready` is not this one's
    ip netns exec "$place" $python "$here/gateway_tools.py" receive "$@" >"$file" &
    receivers[$file]=$!
    await "$file" '^ready'
}
heard() { wait "${receivers[$1]}"; } # FILE: waits until it has its count
# FILE...: when what must not arrive has had time to arrive.
hush() {
    local file
    sleep 0.25
    for file in "$@"; do kill -TERM "${receivers[$file]}"; wait "${receivers[$file]}"; done
}
# total FILE NAME: the count of the line NAME
total() { sed -n "s/^$2 count=//p" "$1"; }
equals() { [ "$1" = "$2" ]; }
no_clear() { # TEXT FILE
    if equals "$(total "$2" clear-total)/$(total "$2" marker)" 0/0; then
        ok "$1"
    else
        fail "$1: $(grep clear "$2" | tr '\n' '|')"
    fi
}
