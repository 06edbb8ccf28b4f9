// SPDX-License-Identifier: Apache-2.0

public import Audit
public import Cryptography
internal import Glibc

// AuditFile owns the files of an audit chain: lines are appended and on the disk when a call returns, a file that was
// changed, cut or taken away under the writer is noticed, and files are read and verified. What a line is, Audit says.

/// Why a file of the chain cannot be written or is not accepted.
public enum AuditFileError: Error, Hashable, Sendable {
    /// What the system says.
    case system(operation: String, reason: String)
    /// It was removed or renamed while it was in use.
    case removed
    /// There is another file in its place, or it has other octets than those that were written.
    case foreign
    /// A line is not what it was: the line's place in the file, from 1.
    case damaged(line: Int, AuditFault)
    /// It ends before the newest line that is known.
    case cut(last: UInt64, newest: UInt64)
    /// Its line of that number is another one than the newest that is known.
    case replaced(number: UInt64)
    /// Another process writes it.
    case inUse
}

extension AuditFileError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .system(let operation, let reason): "\(operation): \(reason)"
        case .removed: "it was removed or renamed"
        case .foreign: "another file is in its place, or others have written to it"
        case .damaged(let line, let fault): "line \(line) \(fault)"
        case .cut(let last, let newest):
            last + 1 == newest
                ? "it ends with number \(last): line \(newest) was cut off"
                : "it ends with number \(last): lines \(last + 1) to \(newest) were cut off"
        case .replaced(let number): "line number \(number) is another one than the key server wrote"
        case .inUse: "another process has it open"
        }
    }
}

/// The writer's end of a chain: one file, open as long as this lives.
@safe public final class AuditFile {
    public let path: String
    private let descriptor: Int32
    /// Octets that are ours and on the disk.
    public private(set) var size: Int
    private let device: dev_t
    private let node: ino_t
    /// A write that failed may have left something behind `size`.
    private var hasRest = false

    /// Opens what is there, or makes a new file with mode 0600.
    ///
    /// - Parameters:
    ///   - key: of `AuditChain.key`.
    ///   - newest: how far the chain is known to go; nil when nobody knows.
    /// - Returns: the file, where its chain goes on, how many octets of an unfinished line were taken from its end, and
    ///   whether there was a file.
    /// - Throws: `AuditFileError` for a file that is not as it was left. It stays as it is.
    public static func open(
        _ path: String, key: Secret, newest: AuditHead?
    ) throws(AuditFileError) -> (file: AuditFile, head: AuditHead, torn: Int, isNew: Bool) {
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o600)
        guard descriptor >= 0 else { throw .last("open") }
        do throws(AuditFileError) {
            guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
                throw errno == EWOULDBLOCK ? .inUse : .last("flock")
            }
            var status = stat()
            guard unsafe fstat(descriptor, &status) == 0 else { throw .last("fstat") }
            guard status.st_mode & S_IFMT == S_IFREG else { throw .foreign }
            guard fchmod(descriptor, 0o600) == 0 else { throw .last("fchmod") }
            let file = AuditFile(path: path, descriptor: descriptor, status: status)
            guard status.st_size > 0 else {
                try syncFolder(of: path)
                return (file, newest ?? .start, 0, true)
            }
            let (head, torn) = try file.check(key: key, newest: newest)
            return (file, head, torn, file.size == 0)
        } catch {
            close(descriptor)
            throw error
        }
    }

    private init(path: String, descriptor: Int32, status: stat) {
        self.path = path
        self.descriptor = descriptor
        size = Int(status.st_size)
        (device, node) = (status.st_dev, status.st_ino)
    }

    deinit { close(descriptor) }

    /// Verifies all lines. An unfinished one at the end, which nothing was sent for, is taken away.
    private func check(key: Secret, newest: AuditHead?) throws(AuditFileError) -> (head: AuditHead, torn: Int) {
        var verifier = AuditVerifier(key: key, beginsAnywhere: true)
        var reader = AuditReader(descriptor: descriptor)
        var line = 0
        var good = 0
        var isKnown = newest.map { $0.number == 0 } ?? true
        while let (octets, isWhole) = try reader.next() {
            line += 1
            do throws(AuditFault) {
                guard isWhole else { throw .malformed }
                try verifier.take(octets)
            } catch {
                guard !isWhole, isKnown || verifier.head == nil else { throw .damaged(line: line, error) }
                break
            }
            good += octets.count + 1
            if let newest, newest.number == verifier.head?.number {
                guard newest == verifier.head else { throw .replaced(number: newest.number) }
                isKnown = true
            }
        }
        // The first line never came to its end.
        guard let head = verifier.head else { return (newest ?? .start, try cut(to: 0)) }
        if let newest, !isKnown {
            if let first = verifier.first, first == newest.number + 1 { return (head, try cut(to: good)) }
            throw head.number < newest.number
                ? .cut(last: head.number, newest: newest.number) : .replaced(number: newest.number)
        }
        return (head, try cut(to: good))
    }

    private func cut(to good: Int) throws(AuditFileError) -> Int {
        let torn = size - good
        guard torn > 0 else { return 0 }
        guard ftruncate(descriptor, off_t(good)) == 0, fsync(descriptor) == 0 else { throw .last("ftruncate") }
        size = good
        return torn
    }

    /// Appends whole lines; they are on the disk when it returns. When it throws, none of them count as written.
    public func append(_ lines: [UInt8]) throws(AuditFileError) {
        try lookAround()
        var written = 0
        hasRest = true
        while written < lines.count {
            let count = unsafe lines.withUnsafeBytes { octets in
                unsafe pwrite(
                    descriptor, octets.baseAddress.map { unsafe $0 + written }, octets.count - written,
                    off_t(size + written))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                let error = AuditFileError.last("write")
                takeBack()
                throw error
            }
            written += count
        }
        guard fsync(descriptor) == 0 else {
            let error = AuditFileError.last("fsync")
            takeBack()
            throw error
        }
        hasRest = false
        size += lines.count
    }

    private func takeBack() { if ftruncate(descriptor, off_t(size)) == 0 { hasRest = false } }

    /// Is the file still the one at its path, with the octets that we know of?
    public func lookAround() throws(AuditFileError) {
        if hasRest { takeBack() }
        var own = stat()
        guard unsafe fstat(descriptor, &own) == 0 else { throw .last("fstat") }
        var there = stat()
        guard unsafe lstat(path, &there) == 0 else {
            throw errno == ENOENT ? .removed : .last("stat")
        }
        guard there.st_dev == device, there.st_ino == node, Int(own.st_size) == size || hasRest else { throw .foreign }
    }

    /// Puts a file that was removed back at its path, as far as we wrote it; for one that was renamed this makes none.
    ///
    /// - Returns: whether the file is there again; then open it anew.
    public func putBack() throws(AuditFileError) -> Bool {
        var own = stat()
        guard unsafe fstat(descriptor, &own) == 0 else { throw .last("fstat") }
        guard own.st_nlink == 0 else { return false }
        let aside = path + ".part"
        _ = unsafe unlink(aside)
        let copy = unsafe Glibc.open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard copy >= 0 else { throw .last("open") }
        defer { close(copy) }
        var piece = [UInt8](repeating: 0, count: 1 << 20)
        var position = 0
        while position < size {
            let most = min(piece.count, size - position)
            let count = unsafe pread(descriptor, &piece, most, off_t(position))
            guard count > 0, unsafe write(copy, piece, count) == count else { throw .last("copy") }
            position += count
        }
        guard fsync(copy) == 0 else { throw .last("fsync") }
        // Fails where something is there again: link makes no second entry of a name.
        guard unsafe link(aside, path) == 0 else { throw .last("link") }
        _ = unsafe unlink(aside)
        try Self.syncFolder(of: path)
        return true
    }

    /// Gives the file another name beside its old one; the caller opens a new one at the path then.
    public func rename(to other: String) throws(AuditFileError) {
        guard unsafe access(other, F_OK) != 0 else { throw .foreign }
        guard unsafe Glibc.rename(path, other) == 0 else { throw .last("rename") }
        try Self.syncFolder(of: path)
    }

    private static func syncFolder(of path: String) throws(AuditFileError) {
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let descriptor = unsafe Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .last("open folder") }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .last("fsync folder") }
    }
}

extension AuditFileError {
    /// From `errno`.
    static func last(_ operation: String) -> AuditFileError {
        let number = errno
        let reason = unsafe strerror(number).map { unsafe String(cString: $0) } ?? "error \(number)"
        return .system(operation: operation, reason: reason)
    }
}

/// The lines of a descriptor from its beginning, read in pieces.
struct AuditReader {
    private let descriptor: Int32
    private var piece: [UInt8] = []
    private var taken = 0
    private var position = 0
    private var isAtEnd = false

    init(descriptor: Int32) { self.descriptor = descriptor }

    /// The next line without its line feed, and whether it had one (or was longer than a line may be); nil at the end.
    mutating func next() throws(AuditFileError) -> (octets: [UInt8], isWhole: Bool)? {
        while true {
            if let end = piece[taken...].firstIndex(of: 0x0a) {
                defer { taken = end + 1 }
                return (Array(piece[taken..<end]), true)
            }
            let rest = piece.count - taken
            if isAtEnd || rest > AuditChain.lineOctets {
                guard rest > 0 else { return nil }
                defer { taken = piece.count }
                return (Array(piece[taken...]), rest > AuditChain.lineOctets)
            }
            try read()
        }
    }

    private mutating func read() throws(AuditFileError) {
        piece.removeFirst(taken)
        taken = 0
        var more = [UInt8](repeating: 0, count: 1 << 18)
        let count = unsafe pread(descriptor, &more, more.count, off_t(position))
        if count < 0, errno == EINTR { return }
        guard count >= 0 else { throw .last("read") }
        position += count
        isAtEnd = count == 0
        piece += more[..<count]
    }
}
