// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import ISAKMP
internal import Store

/// `vpn/ID/state`: a VPN's SAs and how far their change is, so that a restart goes on where it was.
///
///     version = 1 | phase (128: with SAs of which no record is left) | transaction (u64)
///     | names of the ends (length u8, text, twice)
///     | changes (u8): transaction (u64), started (u64, microseconds since 1970), reason (length u8, text),
///       members, confirmed (u8 each: 1 the first end, 2 the second)
///     | generations (u8): transaction, created, expires, gone (u64 each; 0: not replaced)
///       | flags (1 in use, 2 and 4 lost by an end, 8 in UDP) | each end's address (length u8, octets, port u16)
///       | SAs (length u16): the payloads of a VPN section (docs/FMKE.md 4.7) as for the first end
extension VPNState {
    private static let version: UInt8 = 1
    private static let unknown: UInt8 = 128

    func octets(_ clock: RecordClock) -> Secret? {
        var writer = OctetWriter(capacity: 512)
        writer.u8(Self.version)
        writer.u8(phase.rawValue | (hasUnknown ? Self.unknown : 0))
        writer.u64(transaction)
        for name in entry.ends { writer.text(name) }
        writer.u8(UInt8(clamping: changes.count))
        for change in changes.prefix(Int(UInt8.max)) {
            writer.u64(change.transaction)
            writer.u64(clock.microseconds(change.startedAt))
            writer.text(change.reason.rawValue)
            writer.u8(ends(change.members))
            writer.u8(ends(change.confirmed.keys))
        }
        writer.u8(UInt8(clamping: generations.count))
        for generation in generations.prefix(Int(UInt8.max)) {
            guard let sas = try? Self.encode(generation) else { return nil }
            for number in [
                generation.transaction, clock.microseconds(generation.createdAt),
                clock.microseconds(generation.expiresAt), generation.removeAt.map { clock.microseconds($0) } ?? 0,
            ] { writer.u64(number) }
            let lost = generation.lostBy.reduce(UInt8(0)) { $0 | 2 << UInt8($1) }
            writer.u8((generation.isActive ? 1 : 0) | lost | (generation.path.isEncapsulated ? 8 : 0))
            for address in generation.path.addresses {
                writer.u8(UInt8(clamping: address.address.octets.count))
                writer.append(address.address.octets)
                writer.u16(address.port)
            }
            writer.u16(UInt16(clamping: sas.count))
            writer.append(sas)
        }
        var octets = writer.bytes
        defer { wipe(&octets) }
        return Secret(octets)
    }

    private func ends(_ names: some Sequence<String>) -> UInt8 {
        names.reduce(0) { $0 | 1 << UInt8(entry.end($1) ?? 0) }
    }

    private static func encode(_ generation: VPNGeneration) throws(FMKEError) -> [UInt8] {
        let sas = generation.sas.map { item in
            var sa = item.sa
            sa.direction = item.from == 0 ? .sender : .receiver
            return sa
        }
        let section = VPNSection(
            vpn: 0, name: "", transaction: generation.transaction, keepsOthers: false,
            peer: .init(address: generation.path.addresses[1], isEncapsulated: generation.path.isEncapsulated),
            dataSAs: sas)
        return PayloadChain.encode(try section.payloads()).octets
    }

    /// Throws `UnreadableRecord` for anything that `octets` does not write.
    init(_ entry: VPNEntry, name: String, octets value: Secret, _ clock: RecordClock) throws(UnreadableRecord) {
        self.init(entry: entry, transaction: 0)
        // Revealed to be taken apart; the keys become secrets again.
        var octets = value.revealed()
        defer { wipe(&octets) }
        do {
            var reader = OctetReader(octets)
            guard try reader.u8() == Self.version else { throw Truncated() }
            let first = try reader.u8()
            guard let phase = VPNPhase(rawValue: first & ~Self.unknown) else { throw Truncated() }
            (self.phase, hasUnknown) = (phase, first & Self.unknown != 0)
            transaction = try reader.u64()
            let ends = [try reader.text(), try reader.text()]
            for _ in 0..<(try reader.u8()) { changes.append(try Self.change(&reader, ends, clock)) }
            for _ in 0..<(try reader.u8()) { generations.append(try Self.generation(&reader, clock)) }
            guard reader.isEmpty, transaction < 1 << 62 else { throw Truncated() }
            // Another end: nothing of it is this VPN's.
            if ends != entry.ends { (generations, changes, self.phase) = ([], [], .settled) }
        } catch {
            throw UnreadableRecord(name: name)
        }
    }

    private static func change(
        _ reader: inout OctetReader, _ ends: [String], _ clock: RecordClock
    ) throws -> VPNChange {
        let (transaction, started) = (try reader.u64(), try reader.u64())
        guard let reason = RekeyReason(rawValue: try reader.text()) else { throw Truncated() }
        let (members, confirmed) = (try reader.u8(), try reader.u8())
        guard started < 1 << 52, (1...3).contains(members), confirmed & ~members == 0 else { throw Truncated() }
        func names(_ mask: UInt8) -> [String] { ends.enumerated().filter { mask & 1 << $0.0 != 0 }.map(\.element) }
        let startedAt = clock.instant(started)
        var change = VPNChange(
            transaction: transaction, reason: reason, startedAt: startedAt, members: names(members))
        for name in names(confirmed) { change.confirmed[name] = startedAt }
        return change
    }

    private static func generation(_ reader: inout OctetReader, _ clock: RecordClock) throws -> VPNGeneration {
        let transaction = try reader.u64()
        let (created, expires, gone) = (try reader.u64(), try reader.u64(), try reader.u64())
        let flags = try reader.u8()
        guard flags < 16, created <= expires, max(expires, gone) < 1 << 52 else { throw Truncated() }
        func address() throws -> SocketAddress {
            let size = Int(try reader.u8())
            guard size == 4 || size == 16, let address = IPAddress(octets: try reader.slice(size)) else {
                throw Truncated()
            }
            return SocketAddress(address, try reader.u16())
        }
        let addresses = [try address(), try address()]
        let chain = try reader.bytes(Int(try reader.u16()))
        var payloads = try PayloadChain.parse(first: .vpn, chain[...], limit: 3, allowPadding: false)[...]
        let section = try VPNSection(taking: &payloads)
        guard payloads.isEmpty, section.peer?.address == addresses[1],
            section.peer?.isEncapsulated == (flags & 8 != 0)
        else { throw Truncated() }
        var generation = VPNGeneration(
            transaction: transaction, sas: section.dataSAs.map { ($0.direction == .sender ? 0 : 1, $0) },
            path: VPNPath(addresses: addresses, isEncapsulated: flags & 8 != 0), createdAt: clock.instant(created),
            expiresAt: clock.instant(expires))
        generation.isActive = flags & 1 != 0
        generation.removeAt = gone == 0 ? nil : clock.instant(gone)
        generation.lostBy = Set([0, 1].filter { flags & 2 << UInt8($0) != 0 })
        return generation
    }
}

extension OctetWriter {
    fileprivate mutating func text(_ text: String) {
        let octets = Array(text.utf8.prefix(Int(UInt8.max)))
        u8(UInt8(clamping: octets.count))
        append(octets)
    }
}

extension OctetReader {
    fileprivate mutating func text() throws -> String {
        guard let text = String(validating: try bytes(Int(try u8())), as: UTF8.self) else { throw Truncated() }
        return text
    }
}

extension KeyServer {
    /// In front of what depends on it.
    func store(vpn id: UInt32) {
        guard let value = vpns[id]?.octets(clock) else { return }
        unsavedChanges.append(.put(Record(Self.recordName(ofVPN: id), value)))
    }

    /// As an earlier run left it, or new.
    /// - Throws: `UnreadableRecord`, `StoreError`.
    func restoredVPN(_ entry: VPNEntry, records: any RecordStore, now: Instant) throws -> VPNState {
        let name = Self.recordName(ofVPN: entry.id)
        guard let value = try records.value(of: name) else {
            var vpn = VPNState(entry: entry, transaction: configuration.numberFloor)
            vpn.hasUnknown = true
            return vpn
        }
        var vpn = try VPNState(entry, name: name, octets: value, clock)
        vpn.transaction = max(vpn.transaction, configuration.numberFloor)
        for index in vpn.generations.indices {
            // A clock that was set back must not lengthen a life.
            let longest = now + .seconds(Int64(vpn.generations[index].sas.first?.sa.lifetimeSeconds ?? 0))
            if vpn.generations[index].expiresAt > longest {
                vpn.generations[index] = vpn.generations[index].ending(at: longest)
            }
        }
        // An end that was revoked came back by the file.
        if vpn.phase == .removed, entry.ends.allSatisfy({ clients[$0]?.isRevoked == false }) { vpn.phase = .settled }
        return vpn
    }
}

extension VPNGeneration {
    fileprivate func ending(at end: Instant) -> VPNGeneration {
        var copy = VPNGeneration(
            transaction: transaction, sas: sas, path: path, createdAt: createdAt, expiresAt: end)
        (copy.isActive, copy.removeAt, copy.lostBy) = (isActive, removeAt, lostBy)
        return copy
    }
}
