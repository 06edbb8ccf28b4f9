// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Reading and creating small files, without a race between the check and the use.
enum Files {
    /// Who may read a file.
    enum Privacy { case any, secret }

    /// The whole content.
    ///
    /// - Throws: what is wrong with the file, in words for the operator; never its content.
    static func read(_ path: String, octetsAtMost limit: Int, privacy: Privacy) throws(Wrong) -> [UInt8] {
        // Without O_NONBLOCK a FIFO in the place of a file would hang the program before fstat can refuse it.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw Wrong("cannot read \(path): \(reason(errno))", instead: "name a file that this user may read")
        }
        defer { close(descriptor) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw Wrong("\(path) is not a regular file", instead: "name a file")
        }
        let mode = status.st_mode & 0o7777
        guard privacy == .any || mode & 0o007 == 0 else {
            throw Wrong(
                "everyone on this machine has access to \(path) (mode \(octal(mode)))",
                instead: "run chmod 600 on it, and consider the secret known")
        }
        guard status.st_size <= limit else {
            throw Wrong("\(path) has \(status.st_size) octets, more than \(limit)", instead: "name the right file")
        }
        return try contents(of: descriptor, path: path, octetsAtMost: limit)
    }

    private static func contents(of descriptor: Int32, path: String, octetsAtMost limit: Int) throws(Wrong) -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: limit + 1)
        var count = 0
        while count < octets.count {
            let got = unsafe octets.withUnsafeMutableBytes { buffer in
                unsafe Glibc.read(descriptor, buffer.baseAddress.map { unsafe $0 + count }, buffer.count - count)
            }
            if got == 0 { break }
            if got < 0, errno == EINTR { continue }
            guard got > 0 else {
                throw Wrong("cannot read \(path): \(reason(errno))", instead: "name a file that this user may read")
            }
            count += got
        }
        octets.removeLast(octets.count - count)
        return octets
    }

    /// Creates a file that does not exist yet; false when something of that name is there already.
    static func create(_ path: String, mode: mode_t, content: [UInt8]) throws(Wrong) -> Bool {
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)
        guard descriptor >= 0 else {
            if errno == EEXIST { return false }
            throw Wrong("cannot create \(path): \(reason(errno))", instead: "choose a folder that this user may write")
        }
        defer { close(descriptor) }
        var rest = content[...]
        while !rest.isEmpty {
            let written = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
            if written < 0, errno == EINTR { continue }
            guard written > 0 else {
                throw Wrong("cannot write \(path): \(reason(errno))", instead: "make room and remove the part written")
            }
            rest = rest.dropFirst(written)
        }
        guard fsync(descriptor) == 0 else {
            throw Wrong("cannot write \(path): \(reason(errno))", instead: "make room and remove the part written")
        }
        return true
    }

    /// Makes a folder unless it is there; its parent must exist.
    static func makeFolder(_ path: String, mode: mode_t) throws(Wrong) {
        guard unsafe mkdir(path, mode) != 0, errno != EEXIST else { return }
        let number = errno
        let instead =
            number == ENOENT
            ? "make \(folder(of: path)) first" : "choose a folder that this user may write"
        throw Wrong("cannot create \(path): \(reason(number))", instead: instead)
    }

    /// Is there anything of that name?
    static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

    /// The folder part of a path, as a path that something can be appended to.
    static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// `path` itself when it is absolute, otherwise as seen from `folder`.
    static func resolve(_ path: String, from folder: String) -> String {
        path.hasPrefix("/") || folder == "." ? path : folder == "/" ? "/" + path : folder + "/" + path
    }

    private static func reason(_ number: Int32) -> String {
        unsafe strerror(number).map { unsafe String(cString: $0) } ?? "error \(number)"
    }

    private static func octal(_ mode: mode_t) -> String {
        let digits = String(mode, radix: 8)
        return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
    }
}
