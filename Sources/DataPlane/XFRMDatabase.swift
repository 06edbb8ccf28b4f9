// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import Cryptography
internal import ESP
internal import EventLoop
internal import Glibc

/// The kernel's SAD and SPD over NETLINK_XFRM. All of ours carries one interface id: it works on our xfrm interface
/// only, so no packet elsewhere is ever touched by it, and no other policy ever decides about what is in our tunnel.
final class XFRMDatabase: KernelDatabase {
    var onExpiry: ((SAKey, _ isHard: Bool, _ done: KernelUsage) -> Void)?

    /// What all of ours is marked with. Nobody else is likely to have hit upon it.
    static let interfaceID: UInt32 = 0x5a71_5ec0

    private let socket: NetlinkSocket
    private let reports: NetlinkSocket
    private var watch: FileWatch?

    init(loop: EventLoop) throws(SystemError) {
        socket = try NetlinkSocket(NETLINK_XFRM)
        reports = try NetlinkSocket(NETLINK_XFRM, group: Int(XFRMNLGRP_EXPIRE.rawValue))
        watch = loop.watch(readable: reports.descriptor) { [unowned self] in
            reports.drain { report in self.hear(report) }
        }
    }

    deinit { watch?.cancel() }

    // MARK: SAs

    func check(_ parameters: SAParameters) throws(DataPlaneError) {
        guard Algorithms(parameters.suite) != nil else {
            throw .unsupportedAssociation("the kernel's names for \(parameters.suite.rawValue) are not known here")
        }
    }

    func add(_ association: KernelAssociation) throws(SystemError) {
        try socket.perform(request(XFRM_MSG_NEWSA, association), "give the kernel", association.label)
    }

    func update(_ association: KernelAssociation) throws(SystemError) {
        try socket.perform(request(XFRM_MSG_UPDSA, association), "have the kernel change", association.label)
    }

    func remove(_ association: KernelAssociation) throws(SystemError) {
        try remove(association.parameters.key, association.label)
    }

    private func remove(_ key: SAKey, _ label: String) throws(SystemError) {
        let request = NetlinkRequest(XFRM_MSG_DELSA, xfrm_usersa_id(key))
        do throws(SystemError) {
            try socket.perform(request, "have the kernel remove", label)
        } catch {
            guard error.errno == ESRCH else { throw error }
        }
    }

    func usage(of association: KernelAssociation) -> KernelUsage? {
        var found: KernelUsage?
        let request = NetlinkRequest(
            XFRM_MSG_GETSA, flags: 0, xfrm_usersa_id(association.parameters.key))
        try? socket.ask(request, "ask the kernel for", association.label) { report in
            guard let info = report.body.value(at: 0, as: xfrm_usersa_info.self) else { return }
            found = KernelUsage(info, report.attributes(after: xfrm_usersa_info.self))
        }
        return found
    }

    private func request(_ type: Int, _ association: KernelAssociation) -> NetlinkRequest {
        let parameters = association.parameters
        var info = xfrm_usersa_info()
        info.id = xfrm_id(
            daddr: xfrm_address_t(parameters.key.destination), spi: parameters.key.spi.bigEndian,
            proto: UInt8(IPPROTO_ESP))
        info.saddr = xfrm_address_t(association.source)
        info.family = parameters.key.destination.kernelFamily
        info.mode = UInt8(XFRM_MODE_TUNNEL)
        info.reqid = association.request
        info.lft = Self.limits(association)
        if parameters.extendedSequence { info.flags |= UInt8(XFRM_STATE_ESN) }
        var request = NetlinkRequest(type, info)
        guard let algorithms = Algorithms(parameters.suite) else {
            preconditionFailure("a suite that the kernel does not know is refused before")
        }
        algorithms.write(parameters, to: &request)
        request.attribute(Int(XFRMA_REPLAY_ESN_VAL.rawValue)) { request in
            // spec: RFC 4303 3.4.3 - the window, 32 bits to a word; numbers have 64 bits with the flag only.
            let words = (parameters.replayWindow + 31) / 32
            var state = xfrm_replay_state_esn()
            state.bmp_len = UInt32(words)
            state.replay_window = UInt32(parameters.replayWindow)
            request.append(state)
            for _ in 0..<words { request.append(UInt32(0)) }
        }
        if let encapsulation = parameters.encapsulation {
            let (ours, theirs) = (encapsulation.localPort.bigEndian, encapsulation.remote.port.bigEndian)
            let isInbound = association.source.isUnspecified
            request.attribute(
                Int(XFRMA_ENCAP.rawValue),
                xfrm_encap_tmpl(
                    encap_type: Self.espInUDP, encap_sport: isInbound ? theirs : ours,
                    encap_dport: isInbound ? ours : theirs, encap_oa: xfrm_address_t()))
        }
        request.attribute(Int(XFRMA_IF_ID.rawValue), Self.interfaceID)
        return request
    }

    /// RFC 3948, as the kernel numbers it in a header that does not go together with the C library's.
    private static let espInUDP: UInt16 = 2

    /// What ends an SA by itself, even if this process should not live to do it.
    private static func limits(_ association: KernelAssociation) -> xfrm_lifetime_cfg {
        let parameters = association.parameters
        var limits = xfrm_lifetime_cfg.none
        if let octets = association.octetLimit {
            limits.hard_byte_limit = octets
            limits.soft_byte_limit = octets / 100 * softPercent
        }
        if !association.source.isUnspecified {
            // spec: RFC 4303 3.3.3 - the sequence number never repeats.
            let last = parameters.extendedSequence ? 1 << 48 - 1 : UInt64(UInt32.max)
            limits.hard_packet_limit = last
            limits.soft_packet_limit = last / 100 * softPercent
        }
        if let lifetime = parameters.lifetime {
            limits.hard_add_expires_seconds = UInt64(clamping: max(lifetime.components.seconds, 1))
        }
        return limits
    }

    /// As the daemon's own look at the counters, which comes every few seconds.
    private static let softPercent: UInt64 = 80

    // MARK: Policies

    func set(_ policy: KernelPolicy) throws(SystemError) {
        var info = xfrm_userpolicy_info()
        info.sel = xfrm_selector(policy.selector)
        info.lft = .none
        info.priority = policy.rank
        info.dir = policy.direction.number
        info.action = UInt8(policy.blocks ? XFRM_POLICY_BLOCK : XFRM_POLICY_ALLOW)
        // The same request adds it or puts it in the place of the former one.
        var request = NetlinkRequest(XFRM_MSG_UPDPOLICY, info)
        if !policy.blocks {
            request.attribute(Int(XFRMA_TMPL.rawValue)) { request in
                var template = xfrm_user_tmpl()
                template.id = xfrm_id(
                    daddr: xfrm_address_t(policy.destination), spi: (policy.active ?? 0).bigEndian,
                    proto: UInt8(IPPROTO_ESP))
                template.family = policy.destination.kernelFamily
                template.saddr = xfrm_address_t(policy.source)
                template.reqid = policy.request
                template.mode = UInt8(XFRM_MODE_TUNNEL)
                (template.aalgos, template.ealgos, template.calgos) = (.max, .max, .max)
                request.append(template)
            }
        }
        request.attribute(Int(XFRMA_IF_ID.rawValue), Self.interfaceID)
        try socket.perform(request, "give the kernel a policy for", "\(policy.selector)")
    }

    func remove(_ policy: KernelPolicy) throws(SystemError) {
        try remove(xfrm_selector(policy.selector), policy.direction.number, "\(policy.selector)")
    }

    private func remove(_ selector: xfrm_selector, _ direction: UInt8, _ label: String) throws(SystemError) {
        var request = NetlinkRequest(
            XFRM_MSG_DELPOLICY, xfrm_userpolicy_id(sel: selector, index: 0, dir: direction))
        request.attribute(Int(XFRMA_IF_ID.rawValue), Self.interfaceID)
        do throws(SystemError) {
            try socket.perform(request, "have the kernel remove the policy for", label)
        } catch {
            guard error.errno == ENOENT else { throw error }
        }
    }

    // MARK: All of them

    func removeLeftOvers() throws(SystemError) {
        func isOurs(_ attributes: [Int: ArraySlice<UInt8>]) -> Bool {
            attributes[Int(XFRMA_IF_ID.rawValue)]?.value(at: 0) == Self.interfaceID
        }
        var policies: [(xfrm_selector, UInt8)] = []
        var associations: [SAKey] = []
        // A dump takes no fixed part, but the kernel looks for its size.
        try socket.ask(
            NetlinkRequest(XFRM_MSG_GETPOLICY, flags: NLM_F_DUMP, xfrm_userpolicy_id()),
            "list the kernel's policies", ""
        ) { report in
            guard let info = report.body.value(at: 0, as: xfrm_userpolicy_info.self),
                isOurs(report.attributes(after: xfrm_userpolicy_info.self))
            else { return }
            policies.append((info.sel, info.dir))
        }
        try socket.ask(
            NetlinkRequest(XFRM_MSG_GETSA, flags: NLM_F_DUMP, xfrm_usersa_id()),
            "list the kernel's SAs", ""
        ) { report in
            guard let info = report.body.value(at: 0, as: xfrm_usersa_info.self),
                isOurs(report.attributes(after: xfrm_usersa_info.self))
            else { return }
            associations.append(SAKey(info))
        }
        for (selector, direction) in policies { try remove(selector, direction, "a former client") }
        for key in associations { try remove(key, "an SA of a former client") }
    }

    private func hear(_ report: NetlinkReport) {
        guard report.type == XFRM_MSG_EXPIRE, let expiry = report.body.value(at: 0, as: xfrm_user_expire.self)
        else { return }
        let attributes = report.attributes(after: xfrm_user_expire.self)
        guard attributes[Int(XFRMA_IF_ID.rawValue)]?.value(at: 0) == Self.interfaceID else { return }
        onExpiry?(SAKey(expiry.state), expiry.hard != 0, KernelUsage(expiry.state, attributes))
    }
}

/// What the kernel calls a suite's algorithms.
private struct Algorithms {
    private var cipher: String
    private var authentication: String?
    private var icvBits: UInt32

    init?(_ suite: ESPSuite) {
        icvBits = UInt32(suite.icvSize) * 8
        switch (suite.transformID, suite.authenticationID) {
        case (20, nil): cipher = "rfc4106(gcm(aes))"
        case (12, 2): (cipher, authentication) = ("cbc(aes)", "hmac(sha1)")
        case (12, 5): (cipher, authentication) = ("cbc(aes)", "hmac(sha256)")
        default: return nil
        }
    }

    func write(_ parameters: SAParameters, to request: inout NetlinkRequest) {
        func append(_ name: String, _ request: inout NetlinkRequest) {
            let octets = Array(name.utf8.prefix(Self.nameOctets - 1))
            for index in 0..<Self.nameOctets { request.append(index < octets.count ? octets[index] : 0) }
        }
        let key = parameters.cipherKey
        guard let authentication, let authenticationKey = parameters.authenticationKey else {
            // struct xfrm_algo_aead; the salt stands at the key's end, as RFC 4106 has it.
            request.attribute(Int(XFRMA_ALG_AEAD.rawValue)) { request in
                append(cipher, &request)
                request.append(UInt32(key.count) * 8)
                request.append(icvBits)
                request.append(key)
            }
            return
        }
        // struct xfrm_algo
        request.attribute(Int(XFRMA_ALG_CRYPT.rawValue)) { request in
            append(cipher, &request)
            request.append(UInt32(key.count) * 8)
            request.append(key)
        }
        // struct xfrm_algo_auth: without the length of the ICV the kernel would cut HMAC-SHA2-256 to 96 bits.
        request.attribute(Int(XFRMA_ALG_AUTH_TRUNC.rawValue)) { request in
            append(authentication, &request)
            request.append(UInt32(authenticationKey.count) * 8)
            request.append(icvBits)
            request.append(authenticationKey)
        }
    }

    private static let nameOctets = 64
}

extension KernelUsage {
    fileprivate init(_ info: xfrm_usersa_info, _ attributes: [Int: ArraySlice<UInt8>]) {
        packets = info.curlft.packets
        octets = info.curlft.bytes
        replays = UInt64(info.stats.replay)
        failures = UInt64(info.stats.integrity_failed)
        lastUsed = attributes[Int(XFRMA_LASTUSED.rawValue)]?.value(at: 0) ?? info.curlft.use_time
        if let window = attributes[Int(XFRMA_REPLAY_ESN_VAL.rawValue)]?.value(at: 0, as: xfrm_replay_state_esn.self) {
            sequence = max(
                UInt64(window.seq_hi) << 32 | UInt64(window.seq), UInt64(window.oseq_hi) << 32 | UInt64(window.oseq))
        }
    }
}

extension KernelAssociation {
    /// For errors: no key in it.
    var label: String { "SA \(spiText(parameters.key.spi)) to \(parameters.key.destination)" }
}

extension KernelPolicy {
    fileprivate var blocks: Bool { direction == .out && active == nil }
}

extension KernelPolicy.Direction {
    fileprivate var number: UInt8 {
        switch self {
        case .out: UInt8(XFRM_POLICY_OUT)
        case .into: UInt8(XFRM_POLICY_IN)
        case .forward: UInt8(XFRM_POLICY_FWD)
        }
    }
}

extension IPAddress {
    var kernelFamily: UInt16 { UInt16(isV4 ? AF_INET : AF_INET6) }

    fileprivate init(_ address: xfrm_address_t, family: UInt16) {
        let octets = unsafe withUnsafeBytes(of: address) { unsafe [UInt8]($0) }
        self = IPAddress(octets: octets.prefix(family == AF_INET ? 4 : 16)) ?? .anyV4
    }
}

extension xfrm_address_t {
    fileprivate init(_ address: IPAddress) {
        self.init()
        let octets = address.octets
        unsafe withUnsafeMutableBytes(of: &self) { unsafe $0.copyBytes(from: octets) }
    }
}

extension SAKey {
    fileprivate init(_ info: xfrm_usersa_info) {
        self.init(spi: UInt32(bigEndian: info.id.spi), destination: IPAddress(info.id.daddr, family: info.family))
    }
}

extension xfrm_usersa_id {
    fileprivate init(_ key: SAKey) {
        self.init(
            daddr: xfrm_address_t(key.destination), spi: key.spi.bigEndian, family: key.destination.kernelFamily,
            proto: UInt8(IPPROTO_ESP))
    }
}

extension xfrm_selector {
    fileprivate init(_ selector: TrafficSelector) {
        self.init()
        saddr = xfrm_address_t(selector.source.address)
        daddr = xfrm_address_t(selector.destination.address)
        prefixlen_s = UInt8(selector.source.length)
        prefixlen_d = UInt8(selector.destination.length)
        family = selector.destination.address.kernelFamily
        proto = selector.ipProtocol
        sport = selector.sourcePort.bigEndian
        sport_mask = selector.sourcePort == 0 ? 0 : .max
        dport = selector.destinationPort.bigEndian
        dport_mask = selector.destinationPort == 0 ? 0 : .max
    }
}

extension xfrm_lifetime_cfg {
    /// No limit at all.
    fileprivate static let none = xfrm_lifetime_cfg(
        soft_byte_limit: .max, hard_byte_limit: .max, soft_packet_limit: .max, hard_packet_limit: .max,
        soft_add_expires_seconds: 0, hard_add_expires_seconds: 0, soft_use_expires_seconds: 0,
        hard_use_expires_seconds: 0)
}
