// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import Store

/// Which VPNs there are, over the runs of the server.
extension KeyServer {
    func indexVPNs() {
        vpnsOf = [:]
        for vpn in vpns.values.sorted(by: { $0.entry.id < $1.entry.id }) {
            for name in vpn.entry.ends { vpnsOf[name, default: []].append(vpn.entry.id) }
        }
    }

    /// Drops the records of VPNs that an earlier run had and this one has not: their ends lose the SAs, and if such a
    /// VPN came back with them, their counters would start anew.
    func forgetFormerVPNs(_ records: any RecordStore) throws {
        let value = try records.value(of: Self.vpnListName)?.revealed() ?? []
        var reader = OctetReader(value)
        var former: Set<UInt32> = []
        do {
            while !reader.isEmpty { former.insert(try reader.u32()) }
        } catch {
            throw UnreadableRecord(name: Self.vpnListName)
        }
        let gone = former.subtracting(vpns.keys).sorted()
        unsavedChanges += gone.map { .remove(Self.recordName(ofVPN: $0)) }
        // Who their ends were is not known any more: whoever is there learns by its profile what it has not.
        if !gone.isEmpty { unprofiled.formUnion(owners.values) }
        if former != Set(vpns.keys) { storeVPNList() }
    }

    func storeVPNList() {
        var writer = OctetWriter()
        for id in vpns.keys.sorted() { writer.u32(id) }
        unsavedChanges.append(.put(Record(Self.vpnListName, Secret(writer.bytes))))
    }

    private static let vpnListName = "vpns"

    static func recordName(ofVPN id: UInt32) -> String { "vpn/\(id)/state" }
}
