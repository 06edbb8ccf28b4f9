#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Judges phase 1: strongSwan's charon is the other end of Main Mode, in both roles, and tshark decrypts what went over
# the wire with the key that our side exported. One line per case, "ok: ..." or "FAILED: ..."; exit status 0 when all
# are ok, 1 when one is not, 2 when a tool is missing.
#
#     Tests/Judges/strongswan.sh PATH-OF-PHASE1-PROBE
#
# Everything happens in namespaces of its own, so neither files, processes nor interfaces of the system are touched.
set -u

probe=${1:?usage: strongswan.sh PATH-OF-PHASE1-PROBE}
probe=$(realpath "$probe") || exit 2

need() { # need FILE-OR-COMMAND DEBIAN-PACKAGE
    if [[ $1 == /* ]]; then [[ -e $1 ]]; else command -v "$1" > /dev/null; fi && return
    echo "FAILED: $1 is missing: install the Debian package $2"
    exit 2
}
PATH=$PATH:/usr/sbin:/sbin
plugins=/usr/lib/ipsec/plugins
need unshare util-linux
need ip iproute2
need swanctl strongswan-swanctl
need $plugins/libstrongswan-vici.so strongswan-swanctl
need /usr/sbin/charon-systemd charon-systemd
need $plugins/libstrongswan-openssl.so libstrongswan-standard-plugins
need $plugins/libstrongswan-curve25519.so libstrongswan-extra-plugins
need tshark tshark
[[ -x $probe ]] || { echo "FAILED: $probe is no program"; exit 2; }

# Its own user namespace where we are not root, and its own mount, network and process namespaces in any case: when the
# first process of these ends, by whatever way, the kernel ends the others and takes everything down.
if [[ -z ${JUDGE_INSIDE:-} ]]; then
    user=()
    [[ $(id -u) == 0 ]] || user=(-Ur)
    # A caller with many threads may have all signals blocked, which tshark would inherit and then never end.
    JUDGE_INSIDE=1 exec env --default-signal \
        unshare "${user[@]}" -nm -pf --kill-child --mount-proc "$0" "$probe"
fi

mount --make-rprivate / && mount -t tmpfs tmpfs /run || { echo "FAILED: no mount namespace"; exit 2; }
work=$(mktemp -d)
processes=()
cleanup() {
    for process in "${processes[@]}"; do kill "$process" 2> /dev/null; done
    ip netns del charon 2> /dev/null
    ip netns del ours 2> /dev/null
    rm -rf "$work"
}
trap cleanup EXIT
failures=0
expected=0
verdict() { # verdict STATUS TEXT
    if [[ $1 == 0 ]]; then echo "ok: $2"; else echo "FAILED: $2"; failures=$((failures + 1)); fi
}

wait_for() { # wait_for SECONDS COMMAND...: until it succeeds
    local tries=$(($1 * 10))
    shift
    until "$@" > /dev/null 2>&1; do
        tries=$((tries - 1))
        [[ $tries -gt 0 ]] || return 1
        sleep 0.1
    done
}

# --- two hosts and a wire -------------------------------------------------------------------------------------------
ip netns add charon && ip netns add ours || { echo "FAILED: no network namespace"; exit 2; }
ip link add wireA netns charon type veth peer name wireB netns ours
ip -n charon addr add 10.99.1.1/24 dev wireA
ip -n ours addr add 10.99.1.2/24 dev wireB
for host in charon ours; do ip -n $host link set lo up; done
ip -n charon link set wireA up
ip -n ours link set wireB up

# --- the foreign side -----------------------------------------------------------------------------------------------
printf 'peersecret-0001' > "$work/psk"
printf 'anothersecret-0002' > "$work/wrong-psk"
cat > "$work/strongswan.conf" <<X
charon-systemd {
  load_modular = no
  load = random nonce openssl aes sha1 sha2 md5 hmac kdf gmp curve25519 kernel-netlink socket-default vici updown
  retransmit_timeout = 1.0
  retransmit_tries = 2
  plugins {
    vici {
      socket = unix://$work/vici
    }
  }
  journal {
    default = -1
  }
  filelog {
    log {
      path = $work/charon.log
      default = 1
      ike = 2
      flush_line = yes
    }
  }
}
X
configure() { # configure SUITE NAT [DPD-SECONDS]: what charon offers and accepts
    cat > "$work/swanctl.conf" <<X
connections {
  c {
    version = 1
    aggressive = no
    local_addrs = 10.99.1.1
    remote_addrs = 10.99.1.2
    proposals = $1
    encap = $2
    dpd_delay = ${3:-0}
    local {
      auth = psk
      id = 10.99.1.1
    }
    remote {
      auth = psk
      id = 10.99.1.2
    }
  }
}
secrets {
  ike-1 {
    secret = "peersecret-0001"
  }
}
X
    swan --load-all --file "$work/swanctl.conf" --clear
}
swan() { swanctl "$@" --uri "unix://$work/vici" >> "$work/swanctl.log" 2>&1; }

STRONGSWAN_CONF=$work/strongswan.conf ip netns exec charon /usr/sbin/charon-systemd > "$work/charon.out" 2>&1 &
processes+=($!)
ip netns exec charon tshark -q -i wireA -w "$work/wire.pcap" -F pcap 2> "$work/tshark.out" &
capture=$!
processes+=($capture)
wait_for 20 test -S "$work/vici" || { cat "$work/charon.out"; echo "FAILED: charon does not start"; exit 1; }
wait_for 20 grep -q 'Capture started' "$work/tshark.out" || { echo "FAILED: tshark does not start"; exit 1; }

# --- cases ----------------------------------------------------------------------------------------------------------
explain() { sed 's/^/    ours: /' "$work/ours"; tail -n 15 "$work/charon.log" | sed 's/^/    charon: /'; }

ours() { # ours ROLE SUITE PSK-FILE [OPTIONS]: our endpoint in the background
    local role=$1 suite=$2 psk=$3
    shift 3
    : > "$work/ours"
    ip netns exec ours "$probe" "$role" --local 10.99.1.2 --remote 10.99.1.1 --identity 10.99.1.2 --peer 10.99.1.1 \
        --suite "$suite" --psk-file "$psk" --key-log "$work/keys" --seconds 20 "$@" > "$work/ours" 2>&1 &
    process=$!
    processes+=($process)
    wait_for 10 grep -q '^ready' "$work/ours"
}

charon_says() { grep -c "$1" "$work/charon.log"; }

finish() { # finish NAME: both sides must have come up, ours have ended it, and charon have understood that
    local status=0
    wait "$process" || status=1
    grep -q "^established suite=$suite " "$work/ours" || status=1
    grep -q '^ended weDeleted' "$work/ours" || status=1
    expected=$((expected + 1))
    wait_for 10 eval "[[ \$(charon_says 'received DELETE for IKE_SA') -ge $expected ]]" || status=1
    [[ $(charon_says ' established between ') -ge $expected ]] || status=1
    expected=$(charon_says 'received DELETE for IKE_SA')
    verdict $status "$1"
    [[ $status == 0 ]] || explain
}

as_initiator() { # as_initiator SUITE [CHARON-SUITE]
    suite=$1
    configure "${2:-$1}" no
    ours initiate "$suite" "$work/psk"
    finish "initiator $suite with charon as responder"
}

as_responder() { # as_responder SUITE [CHARON-SUITE]
    suite=$1
    configure "${2:-$1}" no
    ours respond "$suite" "$work/psk"
    swan --initiate --ike c --timeout 10 || echo "charon could not initiate" >> "$work/ours"
    finish "responder $suite with charon as initiator"
}

for suite in aes256-sha256-ecp256 aes128-sha1-modp1024 3des-md5-modp1024; do
    as_initiator $suite
    as_responder $suite
done
as_initiator aes256-sha256-x25519 aes256-sha256-curve25519
as_responder aes256-sha256-x25519 aes256-sha256-curve25519
as_initiator aes192-sha384-ecp384
as_responder aes256-sha512-modp2048

# Each asks the other whether it lives, and is answered (RFC 3706). One at a time: a question is a sign of life as well,
# so that of two who ask only the quicker one does.
suite=aes128-sha256-ecp256
configure $suite no
ours initiate $suite "$work/psk" --hold 2500 --dpd 1
finish "an SA with our questions"
grep -q '^alive' "$work/ours" && [[ $(charon_says 'generating INFORMATIONAL_V1 request .*N(DPD_ACK) ') -ge 1 ]]
verdict $? "charon answers whether it lives"
configure $suite no 1
ours initiate $suite "$work/psk" --hold 2500
finish "an SA with charon's questions"
[[ $(charon_says 'parsed INFORMATIONAL_V1 request .*N(DPD_ACK) ') -ge 1 ]]
verdict $? "we answer whether we live"

# charon pretends to stand behind a translator: message 5 and all later ones go through port 4500.
for role in initiate respond; do
    suite=aes128-sha256-ecp256
    configure $suite yes
    ours $role $suite "$work/psk"
    [[ $role == initiate ]] || swan --initiate --ike c --timeout 10
    finish "NAT traversal, we $role"
    grep -q 'nat=true port=4500' "$work/ours"
    verdict $? "NAT traversal moves to port 4500, we $role"
done

# Two keys that differ: nobody comes up, and our side says why.
configure aes256-sha256-ecp256 no
ours respond aes256-sha256-ecp256 "$work/wrong-psk"
swan --initiate --ike c --timeout 2
wait_for 10 grep -q '^failed authentication failed' "$work/ours" && ! grep -q '^established' "$work/ours"
status=$?
kill "$process"
wait "$process" 2> /dev/null
verdict $status "a wrong key is named as responder"
[[ $status == 0 ]] || explain
ours initiate aes256-sha256-ecp256 "$work/wrong-psk"
wait "$process"
grep -q '^failed ' "$work/ours" && ! grep -q '^established' "$work/ours"
status=$?
verdict $status "a wrong key comes to an end as initiator"
[[ $status == 0 ]] || explain

# --- tshark decrypts Main Mode --------------------------------------------------------------------------------------
sleep 1
kill $capture
wait $capture 2> /dev/null
mkdir "$work/prefs"
cp "$work/keys" "$work/prefs/ikev1_decryption_table"
read_wire() { WIRESHARK_CONFIG_DIR=$work/prefs tshark -r "$work/wire.pcap" "$@" 2> /dev/null; }
total=0
decrypted=0
while IFS=, read -r cookie _; do
    total=$((total + 1))
    # Messages 5 and 6: the identities of both ends stand in them.
    addresses=$(read_wire -Y "isakmp.ispi == $cookie && isakmp.exchangetype == 2 && isakmp.flag_e == 1" \
        -T fields -e isakmp.id.data.ipv4_addr | sort -u | tr '\n' ' ')
    [[ $addresses == "10.99.1.1 10.99.1.2 " ]] && decrypted=$((decrypted + 1))
done < "$work/keys"
status=1
[[ $total -ge 14 && $decrypted == "$total" ]] && status=0
verdict $status "tshark reads both identities in messages 5 and 6 of $decrypted of $total exchanges"

[[ $failures == 0 ]]
