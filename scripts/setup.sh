#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that build, tests and demonstration need, and looks for the Swift toolchain. Where
# everything is there already it says so and needs neither network nor privileges.
#
# usage: setup.sh [--bench]      (--bench: also the peers that the data plane is measured beside)
set -euo pipefail

packages=(
    libevent-dev libssl-dev libisal-dev libsqlite3-dev pkg-config   # build
    tshark python3 python3-scapy python3-cryptography     # judges in the tests
    strongswan-swanctl charon-systemd                     # the other end of phase 1 in the tests
    libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins
    spin gcc                                              # the model of phase 3
    nftables iproute2 iputils-ping procps tcpdump ethtool # networks in namespaces
    qemu-system-x86 busybox-static cpio kmod              # the virtual machine of the kernel back ends' tests
    ffmpeg                                                # the demonstration's film
)
swift_least=6.3
case ${1-} in
    "") ;;
    --bench) packages+=(openvpn wireguard-go wireguard-tools openssl) ;;
    *)
        echo "usage: setup.sh [--bench]" >&2
        exit 64
        ;;
esac

missing_packages() {
    local package
    for package in "${packages[@]}"; do
        if ! dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
            echo "$package"
        fi
    done
}

# Packages with daemons start them when they are installed; nobody wants a second IKE daemon on port 500.
install_packages() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        # shellcheck disable=SC2064  # the value of now
        trap "rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! apt-get install --yes --no-install-recommends "$@"; then
        echo "setup: trying again with fresh package lists"
        if ! { apt-get update && apt-get install --yes --no-install-recommends "$@"; }; then
            echo "setup: apt-get could not install them; what it says is above. They are: $*" >&2
            exit 1
        fi
    fi
    if [[ " $* " == *" charon-systemd "* ]] && [ -d /run/systemd/system ]; then
        systemctl disable strongswan.service || true
    fi
}

check_packages() {
    if ! command -v dpkg-query >/dev/null; then
        echo "setup: this is no Debian system; install what these packages hold: ${packages[*]}" >&2
        return
    fi
    local missing
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -eq 0 ]; then
        echo "setup: all ${#packages[@]} packages are installed"
    elif [ "$(id -u)" -eq 0 ]; then
        echo "setup: installing ${missing[*]}"
        install_packages "${missing[@]}"
    else
        echo "setup: packages are missing. Run this, and then make again:" >&2
        echo "    sudo apt-get install --yes --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
}

check_swift() {
    local version
    if ! command -v swift >/dev/null; then
        echo "setup: there is no swift. Install Swift $swift_least or later: https://www.swift.org/install/linux/" >&2
        exit 1
    fi
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9][0-9.]*\).*/\1/p' | head -n 1)
    if [ "$(printf '%s\n%s\n' "$swift_least" "$version" | sort --version-sort | head -n 1)" != "$swift_least" ]; then
        echo "setup: Swift ${version:-of unknown version} is too old. Install $swift_least or later:" \
            "https://www.swift.org/install/linux/" >&2
        exit 1
    fi
    echo "setup: Swift $version"
}

check_packages
check_swift
