// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import Cryptography
internal import Glibc
public import Store

/// A copy of a store in one file, as `gcks backup` writes it: values stay sealed.
///
///     "SatIPSec backup 1" LF | microseconds since 1970 (u64) | revision (u64) | store's id (16)
///     | octets of the database (u64) | its SHA-256 (32) | HMAC-SHA-256 of all before (32) | the database
///
/// The code's key follows from the master key, so that nobody without it can put a copy together from records of
/// several ones.
public struct StoreBackup: Sendable {
    private static let magic = Array("SatIPSec backup 1\n".utf8)
    private static let headerSize = magic.count + 8 + 8 + RecordSeal.storeIDSize + 8 + 32
    private static let codeSize = 32

    /// When it was made, microseconds since 1970.
    public let microseconds: UInt64
    /// The number of the newest record in it.
    public let revision: UInt64
    public let storeID: [UInt8]
    /// The database.
    let image: [UInt8]

    /// Why octets are no backup.
    public enum Fault: Error, Hashable, Sendable {
        /// It does not begin as this version's backups do.
        case unknownFormat
        /// Octets are missing or others than those that were written.
        case damaged
        /// It was made with another master key, or put together by somebody without it.
        case wrongKey
    }

    /// Copies a store that may be in use, as it is now.
    public init(of store: SQLiteStore, microseconds: UInt64) throws(StoreError) {
        self.microseconds = microseconds
        (revision, storeID) = (store.newestRevision, store.id)
        image = try store.image()
    }

    /// From a file's octets.
    public init(octets: [UInt8], masterKey: Secret) throws(Fault) {
        guard octets.starts(with: Self.magic) else { throw .unknownFormat }
        guard octets.count >= Self.headerSize + Self.codeSize else { throw .damaged }
        do {
            var reader = OctetReader(Array(octets[Self.magic.count...]))
            microseconds = try reader.u64()
            revision = try reader.u64()
            storeID = try reader.bytes(RecordSeal.storeIDSize)
            let count = try reader.u64()
            let digest = try reader.bytes(32)
            let code = try reader.bytes(Self.codeSize)
            image = Array(octets[(Self.headerSize + Self.codeSize)...])
            guard count == UInt64(image.count), HashAlgorithm.sha256.digest(image) == digest else {
                throw Fault.damaged
            }
            let expected = HMAC.code(.sha256, key: Self.key(masterKey), Array(octets.prefix(Self.headerSize)))
            guard constantTimeEqual(expected, code) else { throw Fault.wrongKey }
        } catch let fault as Fault {
            throw fault
        } catch {
            throw .damaged
        }
    }

    /// What to write into the file.
    public func octets(masterKey: Secret) -> [UInt8] {
        var writer = OctetWriter(capacity: Self.headerSize + Self.codeSize + image.count)
        writer.append(Self.magic)
        writer.u64(microseconds)
        writer.u64(revision)
        writer.append(storeID)
        writer.u64(UInt64(image.count))
        writer.append(HashAlgorithm.sha256.digest(image))
        let code = HMAC.code(.sha256, key: Self.key(masterKey), writer.bytes)
        writer.append(code)
        writer.append(image)
        return writer.bytes
    }

    /// Writes the database to a file that is not there yet, mode 0600.
    public func unpack(to path: String) throws(StoreError) { try WholeFile.write(image, to: path, replaces: false) }

    private static func key(_ masterKey: Secret) -> Secret {
        HKDF.derive(.sha256, key: masterKey, salt: [], info: Array("SatIPSec backup v1".utf8), count: 32)
    }
}

extension SQLiteStore {
    /// Was the backup made of this store, at whatever time?
    public func isSame(as backup: StoreBackup) -> Bool { backup.storeID == id }
}

extension StoreBackup.Fault: CustomStringConvertible {
    public var description: String {
        switch self {
        case .unknownFormat: "it is no backup of this version"
        case .damaged: "it is damaged: its check sum is wrong"
        case .wrongKey: "it was made with another master key, or changed by somebody without it"
        }
    }
}

/// Files that are there whole or not at all.
public enum WholeFile {
    /// Writes a file of mode 0600 under a name of its own and gives it its name when it is on the disk.
    /// - Parameter replaces: what has that name already goes; else it is an error.
    public static func write(_ octets: [UInt8], to path: String, replaces: Bool) throws(StoreError) {
        let aside = path + ".part"
        _ = unsafe unlink(aside)
        let descriptor = unsafe Glibc.open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw last() }
        do throws(StoreError) {
            defer { close(descriptor) }
            var written = 0
            while written < octets.count {
                let count = unsafe octets.withUnsafeBytes { buffer in
                    unsafe Glibc.write(
                        descriptor, buffer.baseAddress.map { unsafe $0 + written }, buffer.count - written)
                }
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw last() }
                written += count
            }
            guard fsync(descriptor) == 0 else { throw last() }
            guard unsafe replaces ? Glibc.rename(aside, path) == 0 : link(aside, path) == 0 else { throw last() }
            if !replaces { _ = unsafe unlink(aside) }
            try syncFolder(of: path)
        } catch {
            _ = unsafe unlink(aside)
            throw error
        }
    }

    /// The whole content of a regular file, at most so many octets.
    public static func read(_ path: String, octetsAtMost limit: Int = 1 << 31) throws(StoreError) -> [UInt8] {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw last() }
        defer { close(descriptor) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw last() }
        guard status.st_mode & S_IFMT == S_IFREG, Int(status.st_size) <= limit else {
            throw .unknownFormat("no regular file, or too long")
        }
        var octets = [UInt8](repeating: 0, count: Int(status.st_size))
        var position = 0
        while position < octets.count {
            let count = unsafe octets.withUnsafeMutableBytes { buffer in
                unsafe Glibc.read(
                    descriptor, buffer.baseAddress.map { unsafe $0 + position }, buffer.count - position)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw count == 0 ? .unavailable("it became shorter") : last() }
            position += count
        }
        return octets
    }

    /// Gives a file another name, in the place of what has it.
    public static func move(_ path: String, to other: String) throws(StoreError) {
        guard unsafe Glibc.rename(path, other) == 0 else { throw last() }
        try syncFolder(of: other)
    }

    public static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }
    public static func remove(_ path: String) { _ = unsafe unlink(path) }

    private static func syncFolder(of path: String) throws(StoreError) {
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let descriptor = unsafe Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw last() }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw last() }
    }

    private static func last() -> StoreError {
        let number = errno
        return .unavailable(unsafe strerror(number).map { unsafe String(cString: $0) } ?? "error \(number)")
    }
}
