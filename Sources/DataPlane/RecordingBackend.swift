// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ESP
public import EventLoop

/// A back end that carries no packet and remembers everything, for tests of what stands above it.
public final class RecordingBackend: SABackend {
    /// Every change in the order of its coming, repetitions too.
    public private(set) var changes: [SAChange] = []
    public private(set) var isStopped = false
    /// Thrown by the next `apply` instead of carrying it out.
    public var nextError: (any Error)?

    private var inbound: [SAParameters] = []
    private var outbound: [SAParameters] = []
    private var active: [TrafficSelector: SAKey] = [:]

    public init() {}

    /// The outbound SA that a packet of this selector would leave with.
    public func activeKey(for selector: TrafficSelector) -> SAKey? { active[selector] }

    public func apply(_ change: SAChange) throws {
        if let error = nextError {
            nextError = nil
            throw error
        }
        guard !isStopped else { throw DataPlaneError.stopped }
        changes.append(change)
        switch change {
        case .addInbound(let parameters):
            if !inbound.contains(where: { $0.key == parameters.key }) { inbound.append(parameters) }
        case .addOutbound(let parameters):
            if !outbound.contains(where: { $0.key == parameters.key }) { outbound.append(parameters) }
        case .activateOutbound(let key):
            guard let parameters = outbound.first(where: { $0.key == key }) else { return }
            active[parameters.selector] = key
        case .removeInbound(let key): inbound.removeAll { $0.key == key }
        case .removeOutbound(let key):
            outbound.removeAll { $0.key == key }
            active = active.filter { $0.value != key }
        case .removeAll: forgetAll()
        }
    }

    public func share(_ socket: UDPSocket) {}

    public func snapshot() -> [SAStatus] {
        func describe(_ parameters: SAParameters, _ direction: SAStatus.Direction) -> SAStatus {
            SAStatus(
                parameters, direction: direction,
                isActive: direction == .inbound || active[parameters.selector] == parameters.key, senders: 0,
                counters: SACounters())
        }
        return outbound.map { describe($0, .outbound) } + inbound.map { describe($0, .inbound) }
    }

    public func status() -> DataPlaneStatus { DataPlaneStatus(backend: "recording") }

    public func stop() {
        forgetAll()
        isStopped = true
    }

    private func forgetAll() {
        inbound = []
        outbound = []
        active = [:]
    }
}
