// SPDX-License-Identifier: Apache-2.0

public import Basics
package import CLinux

/// IPv4 or IPv6.
public enum AddressFamily: Sendable, Hashable {
    case v4, v6

    public init(_ address: IPAddress) { self = address.isV4 ? .v4 : .v6 }

    /// The unspecified address, `0.0.0.0` or `::`.
    public var any: IPAddress { self == .v4 ? .anyV4 : .anyV6 }

    package var number: Int32 { self == .v4 ? 4 : 6 }
}

/// What the system knows of its network interfaces. All throw `SystemError`, `ENODEV` for a name that does not exist.
public enum Interfaces {
    /// The first address of the interface; for IPv6 a global one before a link-local one. `EADDRNOTAVAIL` without any.
    public static func address(of name: String, family: AddressFamily) throws(SystemError) -> IPAddress {
        try addressAndLength(of: name, family: family).0
    }

    /// The network that `address(of:family:)` lies in.
    public static func prefix(of name: String, family: AddressFamily) throws(SystemError) -> IPPrefix {
        let (address, length) = try addressAndLength(of: name, family: family)
        let masked = zip(address.octets, IPPrefix.mask(length, family: family)).map { $0 & $1 }
        guard let network = IPAddress(octets: masked), let prefix = IPPrefix(address: network, length: length) else {
            return IPPrefix(host: address)
        }
        return prefix
    }

    /// The interface's index.
    public static func index(of name: String) throws(SystemError) -> UInt32 {
        UInt32(try SystemError.check("find interface", unsafe clinux_interface_index(name), context: name))
    }

    /// The interface's MTU, in octets.
    public static func mtu(of name: String) throws(SystemError) -> Int {
        Int(try SystemError.check("read the MTU of", unsafe clinux_interface_mtu(name), context: name))
    }

    /// Is it administratively up?
    public static func isUp(_ name: String) throws(SystemError) -> Bool {
        try SystemError.check("read the state of", unsafe clinux_interface_is_up(name), context: name) != 0
    }

    private static func addressAndLength(
        of name: String, family: AddressFamily
    ) throws(SystemError) -> (IPAddress, Int) {
        _ = try index(of: name)
        var found = clinux_address()
        let length = unsafe clinux_interface_address(name, family.number, &found)
        try SystemError.check("find an address of", length, context: name)
        return (IPAddress(found), Int(length))
    }
}

extension IPPrefix {
    /// The octets of a netmask of this length.
    fileprivate static func mask(_ length: Int, family: AddressFamily) -> [UInt8] {
        (0..<(family == .v4 ? 4 : 16)).map { index in
            let bits = min(max(length - 8 * index, 0), 8)
            return UInt8(truncatingIfNeeded: 0xff00 >> bits)
        }
    }
}

extension IPAddress {
    package init(_ address: clinux_address) {
        self = address.family == 4 ? .v4(UInt32(truncatingIfNeeded: address.low)) : .v6(address.high, address.low)
    }
}

extension clinux_address {
    package init(_ address: IPAddress, port: UInt16 = 0, interface: UInt32 = 0) {
        switch address {
        case .v4(let value):
            self.init(high: 0, low: UInt64(value), interface: interface, port: port, family: 4)
        case .v6(let high, let low):
            self.init(high: high, low: low, interface: interface, port: port, family: 6)
        }
    }
}
