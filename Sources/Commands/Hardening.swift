// SPDX-License-Identifier: Apache-2.0

internal import CLinux
public import Logging

/// What a daemon that holds keys gives up, so that less is won by who gets into it.
public enum Hardening {
    /// Capabilities by their numbers (capability.h).
    public enum Capability: UInt64, Sendable {
        case bindService = 10
        case networkAdministration = 12
        case rawSockets = 13
    }

    /// No core file, no debugger, no program that gains rights, no memory in the swap.
    public static func begin(_ logger: Logger) {
        let result = clinux_harden()
        if result < 0 { logger.warning("process.not-hardened", metadata: ["errno": "\(-result)"]) }
        if clinux_lock_memory() < 0 {
            logger.info("memory.not-locked", metadata: ["remedy": "LimitMEMLOCK=infinity, or no swap"])
        }
    }

    /// Gives up all capabilities but these, for good. Files are then those of the daemon's user and open to it only as
    /// their modes say.
    public static func keep(_ capabilities: [Capability], _ logger: Logger) {
        let result = clinux_keep_capabilities(capabilities.reduce(0) { $0 | 1 << $1.rawValue })
        if result < 0 { logger.warning("process.capabilities-kept", metadata: ["errno": "\(-result)"]) }
    }
}
