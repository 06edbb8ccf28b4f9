// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import FaultyDisk
import Foundation
import SQLiteStore
import Store
import Testing

/// A disk that is full, fails, writes half or loses its power, at each of its operations: a change is there as a whole
/// or not at all, and what was reported as written is.
@Suite(.serialized) struct FaultyDiskTests {
    private let key = Secret(Array(UInt8(1)...32))

    private final class Folder {
        let url = FileManager.default.temporaryDirectory.appendingPathComponent("faulty-\(UUID().uuidString)")
        var file: String { url.appendingPathComponent("state.db").path }

        init() throws { try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true) }
        deinit { try? FileManager.default.removeItem(at: url) }
    }

    private func open(_ folder: Folder) throws -> SQLiteStore {
        try SQLiteStore(path: folder.file, masterKey: key, random: SeededRandom(seed: 7))
    }

    private static let modes = [
        FAULTY_DISK_FULL, FAULTY_DISK_ERROR, FAULTY_DISK_SHORT, FAULTY_DISK_TORN, FAULTY_DISK_OFF,
    ]

    private func content(_ store: SQLiteStore) throws -> [String: Secret] {
        Dictionary(uniqueKeysWithValues: try store.records(under: "").map { ($0.name, $0.value) })
    }

    /// Runs `work` with the operation of each number failing in each way, until there is no such operation.
    /// - Returns: how many points there were.
    private func everywhere(
        each step: Int = 1, _ prepare: (Folder) throws -> Void, _ work: (Folder) throws -> Void,
        _ look: (Folder, _ isDone: Bool, String) throws -> Void
    ) throws -> Int {
        try #require(faulty_disk_install() == 0)
        var points = 0
        for mode in Self.modes {
            for operation in stride(from: 0, to: 100_000, by: step) {
                let folder = try Folder()
                try prepare(folder)
                faulty_disk_plan(operation, mode)
                var isDone = true
                do { try work(folder) } catch { isDone = false }
                let wasReached = faulty_disk_operations() > operation
                faulty_disk_plan(-1, mode)
                guard wasReached else { break }
                points += 1
                try look(folder, isDone, "operation \(operation), mode \(mode.rawValue)")
            }
        }
        return points
    }

    @Test func aChangeIsThereAsAWholeOrNotAtAll() throws {
        let old = ["a": Secret([1]), "b": Secret([2]), "c": Secret([3])]
        // Larger than a page, so that the write has several parts.
        let new = ["a": Secret([9]), "c": Secret([8]), "d": Secret([UInt8](repeating: 7, count: 20_000))]
        var (before, after) = (0, 0)
        let points = try everywhere { folder in
            try open(folder).put(old.sorted { $0.key < $1.key }.map { Record($0.key, $0.value) })
        } _: { folder in
            let store = try open(folder)
            try store.apply(
                new.sorted { $0.key < $1.key }.map { .put(Record($0.key, $0.value)) } + [.remove("b")])
        } _: { folder, isDone, place in
            let store = try open(folder)
            let found = try content(store)
            #expect(found == new || !isDone && found == old, "\(place)")
            if found == new { after += 1 } else { before += 1 }
            try store.put([Record("later", Secret([5]))])
            #expect(try store.value(of: "later") == Secret([5]), "\(place)")
        }
        print("disk failed at \(points) points of a change: \(before) times nothing was changed, \(after) times all")
        #expect(points >= 40 && before > 0)
    }

    @Test func aStoreThatCouldNotBeMadeIsMadeTheNextTime() throws {
        let points = try everywhere { _ in
        } _: { folder in
            _ = try open(folder)
        } _: { folder, _, place in
            let store = try open(folder)
            try store.put([Record("a", Secret([1]))])
            #expect(try content(store) == ["a": Secret([1])], "\(place)")
        }
        #expect(points >= 40)
    }

    /// So much that the write-ahead log is taken into the file in between.
    @Test func takingInTheLogLosesNothing() throws {
        let records = (0..<60).map { Record("r\($0)", Secret([UInt8](repeating: UInt8($0), count: 100_000))) }
        let points = try everywhere(each: 397) { _ in
        } _: { folder in
            let store = try open(folder)
            for record in records { try store.put([record]) }
        } _: { folder, isDone, place in
            let found = try content(try open(folder))
            #expect(isDone ? found.count == records.count : found.count < records.count, "\(place)")
            for record in records.prefix(found.count) { #expect(found[record.name] == record.value, "\(place)") }
        }
        #expect(points >= 10)
    }
}
