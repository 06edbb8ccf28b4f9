// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP

/// The tunnel's MTUs: the largest inner packets whose ESP packets fit the link, under all SAs that we could send with.
///
/// Inner IPv4 and IPv6 packets have one each, since groups of both have outer headers of different size.
struct TunnelMTU {
    /// RFC 8200 5: every link carries packets of this size.
    static let smallestV6 = 1_280

    /// Of the interface, and so of IPv4, in octets.
    private(set) var device = 0
    /// For IPv6 packets; nil where the LAN has none. No larger than the interface's.
    private(set) var v6: Int?

    private let linkMTU: Int
    private let carriesIPv6: Bool
    private let fixed: Int?
    private var associations: [SAKey: (suite: ESPSuite, isInnerV4: Bool, isInUDP: Bool)] = [:]

    /// - Parameter fixed: what the operator chose instead.
    init(linkMTU: Int, carriesIPv6: Bool, fixed: Int?) {
        (self.linkMTU, self.carriesIPv6, self.fixed) = (linkMTU, carriesIPv6, fixed)
        settle()
    }

    mutating func insert(_ parameters: SAParameters) {
        let isInnerV4 = parameters.selector.destination.address.isV4
        associations[parameters.key] = (parameters.suite, isInnerV4, parameters.encapsulation != nil)
        settle()
    }

    mutating func remove(_ key: SAKey) {
        associations[key] = nil
        // Without any SA it stays as it is.
        if !associations.isEmpty { settle() }
    }

    mutating func removeAll() { associations = [:] }

    private mutating func settle() {
        device = fixed ?? smallest(isInnerV4: true)
        guard carriesIPv6 else { return }
        v6 = max(min(fixed ?? smallest(isInnerV4: false), device), Self.smallestV6)
        device = max(device, Self.smallestV6)
    }

    /// Of the SAs for one inner family; without any, what the default suite leaves in a group of that family.
    private func smallest(isInnerV4: Bool) -> Int {
        let fits = associations.filter { $0.value.isInnerV4 == isInnerV4 }.map { key, association in
            DataPlaneConfiguration.tunnelMTU(
                linkMTU: linkMTU - (association.isInUDP ? UDPEncapsulation.headerSize : 0),
                suites: [association.suite], overV4: key.destination.isV4)
        }
        return fits.min() ?? DataPlaneConfiguration.tunnelMTU(linkMTU: linkMTU, suites: [], overV4: isInnerV4)
    }
}
