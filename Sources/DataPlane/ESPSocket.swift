// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import EventLoop
internal import Glibc

/// A raw socket for ESP of one family on the satellite interface. The kernel puts received fragments together.
final class ESPSocket {
    let family: AddressFamily
    let descriptor: Int32

    init(
        family: AddressFamily, configuration: DataPlaneConfiguration, interface: UInt32
    ) throws(SystemError) {
        self.family = family
        let name = configuration.satelliteInterface
        let hops = Int32(configuration.outerTTL)
        let opened = unsafe clinux_esp_open(family.number, name, hops, Int32(clamping: configuration.socketBuffer))
        descriptor = try SystemError.check("open a raw ESP socket on", opened, context: name)
        // Not looped back: what we send must not come in again as if a member had sent it.
        let result = clinux_multicast_output(descriptor, family.number, interface, hops, 0)
        // All is set: should this throw, deinit closes the socket.
        try SystemError.check("set multicast output to", result, context: name)
    }

    deinit { close(descriptor) }

    /// What may happen to an outer packet on its way. The numbers are those of `clinux_fragmentation`.
    enum Fragmentation: Int32 {
        /// Routers may cut it, in IPv4.
        case allowed = 0
        /// DF, in IPv4.
        case forbidden = 1
        /// It is larger than the path.
        case needed = 2
    }

    private var fragmentation: Fragmentation?

    /// Settles it for the packets that are sent next.
    func set(_ mode: Fragmentation) {
        guard mode != fragmentation else { return }
        fragmentation = mode
        // A kernel that has these socket options, as all since 3.15 do, does not refuse them.
        _ = clinux_fragmentation(descriptor, family.number, mode.rawValue)
    }

    /// What routers said that packets sent by a socket were too big for, since the last time: their destination, SPI
    /// and sequence number, and the MTU.
    static func readTooBig(
        _ descriptor: Int32
    ) -> [(destination: IPAddress, spi: UInt32, sequence: UInt32, mtu: Int)] {
        var found: [(IPAddress, UInt32, UInt32, Int)] = []
        for _ in 0..<64 {
            var error = clinux_error()
            guard unsafe clinux_error_next(descriptor, &error) == 0 else { break }
            // Eight octets of the packet are quoted at least (RFC 792): SPI and sequence number.
            guard error.mtu > 0, error.count == 8, error.destination.family != 0 else { continue }
            let octets = error.octets
            func word(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) -> UInt32 {
                UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d)
            }
            found.append(
                (
                    IPAddress(error.destination), word(octets.0, octets.1, octets.2, octets.3),
                    word(octets.4, octets.5, octets.6, octets.7), Int(error.mtu)
                ))
        }
        return found
    }

    /// Packets lost since its receive buffer was full.
    var drops: UInt64 { UInt64(max(clinux_socket_drops(descriptor), 0)) }
}
