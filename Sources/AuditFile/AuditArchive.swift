// SPDX-License-Identifier: Apache-2.0

public import Audit
public import Cryptography
internal import Glibc

/// The files of one chain, to be read.
public struct AuditArchive: Sendable {
    /// Oldest first.
    public let paths: [String]

    public init(paths: [String]) throws(AuditFileError) {
        // By their first lines: who names the files need not know their order.
        var first: [(number: UInt64, path: String)] = []
        for path in paths { first.append((try Self.firstNumber(path), path)) }
        self.paths = first.sorted { $0.number < $1.number }.map(\.path)
    }

    /// The file at a path, and those that rotation has put beside it.
    public static func paths(of path: String) -> [String] {
        let slash = path.lastIndex(of: "/")
        let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        var rotated: [String] = []
        if let stream = unsafe opendir(folder) {
            defer { unsafe closedir(stream) }
            while let entry = unsafe readdir(stream) {
                let found = unsafe withUnsafePointer(to: entry.pointee.d_name) { pointer in
                    unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
                }
                guard found.hasPrefix(name + "."), found.dropFirst(name.count + 1).allSatisfy(\.isNumber) else {
                    continue
                }
                rotated.append(slash == nil ? found : folder == "/" ? "/" + found : folder + "/" + found)
            }
        }
        return rotated.sorted() + (unsafe access(path, F_OK) == 0 ? [path] : [])
    }

    /// 0 for a file without a good first line.
    private static func firstNumber(_ path: String) throws(AuditFileError) -> UInt64 {
        let source = try AuditSource(path)
        guard let (octets, _) = try source.next() else { return .max }
        return AuditLine(octets)?.number ?? 0
    }

    /// What a verification found.
    public struct Report: Sendable {
        /// Of the good lines.
        public var first: UInt64?
        public var head: AuditHead?
        public var lines = 0
        /// The first bad line: file, place in it from 1, and what is wrong.
        public var fault: (path: String, line: Int, fault: AuditFault)?
        /// What is wrong with the end, by the newest line that somebody else remembers.
        public var end: AuditFileError?

        /// All that is there is good. (Earlier lines may lie elsewhere.)
        public var isGood: Bool { fault == nil && end == nil && head != nil }
    }

    /// Checks all lines of all files.
    /// - Parameters:
    ///   - key: of `AuditChain.key`; nil to check the hashes only.
    ///   - newest: how far the chain goes, by the key server's store; lines behind it are accepted.
    public func verify(key: Secret?, newest: AuditHead?) throws(AuditFileError) -> Report {
        var report = Report()
        var verifier = AuditVerifier(key: key)
        var isKnown = newest.map { $0.number == 0 } ?? true
        for path in paths {
            let source = try AuditSource(path)
            var place = 0
            while let (octets, isWhole) = try source.next() {
                place += 1
                do throws(AuditFault) {
                    guard isWhole else { throw .malformed }
                    try verifier.take(octets)
                } catch {
                    report.fault = (path, place, error)
                    return report
                }
                report.lines += 1
                (report.first, report.head) = (verifier.first, verifier.head)
                if let newest, newest.number == verifier.head?.number {
                    isKnown = true
                    if newest != verifier.head { report.end = .replaced(number: newest.number) }
                }
            }
        }
        if let newest, !isKnown {
            let last = report.head?.number ?? 0
            report.end =
                last < newest.number ? .cut(last: last, newest: newest.number) : .replaced(number: newest.number)
        }
        return report
    }

    /// Gives each line to somebody, good or not.
    public func forEachLine(_ body: ([UInt8]) -> Void) throws(AuditFileError) {
        for path in paths {
            let source = try AuditSource(path)
            while let (octets, _) = try source.next() { body(octets) }
        }
    }
}

/// A file that is read line by line.
private final class AuditSource {
    private let descriptor: Int32
    private var reader: AuditReader

    init(_ path: String) throws(AuditFileError) {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw .last("open \(path)") }
        self.descriptor = descriptor
        reader = AuditReader(descriptor: descriptor)
    }

    deinit { close(descriptor) }

    func next() throws(AuditFileError) -> (octets: [UInt8], isWhole: Bool)? { try reader.next() }
}
