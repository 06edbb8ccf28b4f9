// SPDX-License-Identifier: Apache-2.0

internal import Audit
public import Basics
internal import FMKE
internal import ISAKMP
internal import ReliablePush

/// What goes into the audit file, and what stands still while nothing can be written there.
///
/// While keys are held back (`hold`), no transaction begins, senders of those under way stand still, profiles wait, and
/// no CONFIGURE leaves. Phase 1, dead peer detection, answers, BEACON and COMMIT, which hold no keys, go on. What was
/// planned comes later by as long as it took.
struct Hold {
    /// In words for the operator.
    let reason: String
    let since: Instant
}

extension ServerOutput {
    /// May this be a datagram with keys in it? CONFIGURE and PUSH, by the exchange type in the clear.
    public var letsKeysGo: Bool {
        guard case .transmit(let datagram) = self else { return false }
        // Behind the non-ESP marker (RFC 3948 2.2), four zero octets, where NAT is on the way: no cookie begins so.
        let position = datagram.bytes.starts(with: [0, 0, 0, 0]) ? 22 : 18
        guard datagram.bytes.count > position else { return false }
        return datagram.bytes[position] == ExchangeType.configure.rawValue
            || datagram.bytes[position] == ExchangeType.push.rawValue
    }
}

extension KeyServer {
    // MARK: Whether keys may go

    /// The driver could not write the audit file, or can again and has written all that was given to it.
    ///
    /// Of the outputs that came with an event which could not be written, the driver must drop those that let keys go:
    /// they are as good as lost on the way, and this engine makes up for that.
    /// - Parameter reason: why not, in words for the operator; nil when it can be written.
    public func setAuditing(failure reason: String?, now: Instant) {
        let start = outputs.count
        defer { save(before: start) }
        if let reason {
            if hold == nil { log(.error, "keys.held-back", ["reason": reason]) }
            hold = Hold(reason: reason, since: hold?.since ?? now)
            return
        }
        guard let hold else { return }
        self.hold = nil
        log(
            .warning, "keys.released", ["seconds": (now - hold.since).secondsText, "profiles": "\(heldProfiles.count)"])
        for id in groups.keys.sorted() where groups[id]?.ahead.isEmpty == true {
            goOn(id, since: hold.since, now: now)
        }
        goOnWithVPNs(since: hold.since, now: now)
        releaseProfiles(now: now)
        drainEndpoint(now: now)
        advanceGroups(to: now)
    }

    /// What was planned when keys were held back is still to come.
    func goOn(_ id: UInt32, since: Instant, now: Instant) {
        for transaction in groups[id]?.open.keys.sorted() ?? [] {
            let end = groups[id]?.open[transaction]?.sender.deactivateAt
            let began = groups[id]?.open[transaction]?.sender.startedAt ?? since
            groups[id]?.open[transaction]?.sender.pause(for: now - max(since, began))
            guard let sender = groups[id]?.open[transaction]?.sender, sender.confirmedCount == 0,
                let indices = groups[id]?.data.indices
            else { continue }
            for index in indices {
                if groups[id]?.data[index].transaction == transaction {
                    // Nobody was to send with them before they were given out.
                    groups[id]?.data[index].activateAt = sender.activateAt
                } else if let removeAt = groups[id]?.data[index].removeAt, removeAt == end {
                    groups[id]?.data[index].removeAt = sender.deactivateAt
                }
            }
        }
        if let renewal = groups[id]?.renewal { groups[id]?.renewal?.at = min(renewal.at, now) }
    }

    // MARK: Events

    func audit(_ name: String, _ fields: KeyValuePairs<String, String>) {
        outputs.append(.audit(AuditEvent(name, fields)))
    }

    /// One that a peer can cause as often as it likes: the audit has as many lines of it as the log.
    func logAndAudit(
        _ level: LogEvent.Level, _ name: String, by peer: String, _ fields: KeyValuePairs<String, String>, now: Instant
    ) {
        let count = outputs.count
        log(level, name, by: peer, fields, now: now)
        guard outputs.count > count, case .log(let event) = outputs[outputs.count - 1] else { return }
        var copy = AuditEvent(name)
        copy.fields = event.fields
        outputs.append(.audit(copy))
    }

    /// Keys that were made for a group, and how they get to whom.
    func auditKeys(
        _ name: String, of group: GroupState, _ made: [ServerDataSA], reason: RekeyReason?, isMulticast: Bool = false
    ) {
        var event = AuditEvent(
            name,
            [
                "group": group.entry.name, "transaction": "\(group.transaction)", "epoch": "\(group.rekeySA.epoch)",
                "spis": AuditEvent.list(made.map { spiText($0.sa.spi) }),
            ])
        if let reason {
            event.fields +=
                AuditEvent(
                    "",
                    [
                        "reason": reason.rawValue, "by": isMulticast ? "multicast" : "unicast",
                        "members": "\(group.members.count)",
                    ]
                ).fields
        }
        outputs.append(.audit(event))
    }

    /// A client is about to get these.
    func auditProfile(of name: String, _ sections: [GroupSection], _ vpns: [VPNSection]) {
        for section in vpns where !section.dataSAs.isEmpty {
            audit(
                "keys.sent",
                [
                    "client": name, "vpn": section.name, "transaction": "\(section.transaction)",
                    "spis": AuditEvent.list(section.dataSAs.map { spiText($0.spi) }),
                ])
        }
        if sections.isEmpty { audit("profile.empty", ["client": name]) }
        for section in sections {
            audit(
                "keys.sent",
                [
                    "client": name, "group": section.name, "transaction": "\(section.membership.transaction)",
                    "epoch": "\(section.rekeySA.epoch)",
                    "spis": AuditEvent.list(section.dataSAs.map { spiText($0.spi) }),
                ])
        }
    }

    /// What became of the inventory.
    func audit(_ changes: [ApplyReport.Change]) {
        for change in changes {
            audit(
                "inventory.changed",
                [
                    "kind": change.kind.rawValue, "action": change.action.rawValue, "name": change.name,
                    "group": change.group ?? "", "details": AuditEvent.list(change.details),
                ])
        }
    }

    func audit(_ report: VerdictReport) {
        audit(
            "rekey.ended",
            [
                "group": report.group, "transaction": "\(report.transaction)", "epoch": "\(report.epoch)",
                "reason": report.reason.rawValue, "verdict": report.verdict, "confirmed": "\(report.confirmed.count)",
                "unconfirmed": AuditEvent.list(report.unconfirmed.map { "\($0.client):\($0.reason)" }),
                "absent": "\(report.absent.count)",
            ])
    }
}
