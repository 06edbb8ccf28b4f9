// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import KeyServer
internal import Settings

/// An inventory as it is stored: the text of a file without secrets, and the secrets.
///
///     version | text (length u32, UTF-8) | count (u32), of each client its name (length u8) and key (length u16)
///     | count (u32), of each range the same
struct StoredInventory {
    private static let version: UInt8 = 1

    let text: String
    let keys: [KeyHolder: Secret]

    init(_ inventory: Inventory, of number: UInt64) {
        text = InventoryText.write(inventory) { _ in "revision-\(number)" }
        var keys: [KeyHolder: Secret] = [:]
        for client in inventory.clients { keys[.client(client.name)] = client.preSharedKey }
        for range in inventory.ranges { keys[.range(range.name)] = range.preSharedKey }
        self.keys = keys
    }

    var octets: Secret {
        var writer = OctetWriter(capacity: text.utf8.count + 64 * keys.count + 16)
        writer.u8(Self.version)
        writer.u32(UInt32(clamping: text.utf8.count))
        writer.append(text.utf8)
        var (clients, ranges): ([(String, Secret)], [(String, Secret)]) = ([], [])
        for (holder, key) in keys {
            switch holder {
            case .client(let name): clients.append((name, key))
            case .range(let name): ranges.append((name, key))
            }
        }
        for list in [clients, ranges] {
            writer.u32(UInt32(clamping: list.count))
            for (name, key) in list.sorted(by: { $0.0 < $1.0 }) {
                writer.u8(UInt8(clamping: name.utf8.count))
                writer.append(name.utf8)
                writer.u16(UInt16(clamping: key.count))
                // Revealed to be sealed by the store.
                writer.append(key.revealed())
            }
        }
        var octets = writer.bytes
        defer { wipe(&octets) }
        return Secret(octets)
    }

    /// Throws `UnreadableRecord` for anything that `octets` does not write.
    init(name: String, octets value: Secret) throws(UnreadableRecord) {
        // Revealed to be taken apart; the keys become secrets again.
        var octets = value.revealed()
        defer { wipe(&octets) }
        do {
            var reader = OctetReader(octets)
            guard try reader.u8() == Self.version else { throw Truncated() }
            func words(_ count: Int) throws -> String {
                guard let text = String(validating: try reader.slice(count), as: UTF8.self) else { throw Truncated() }
                return text
            }
            text = try words(Int(try reader.u32()))
            var keys: [KeyHolder: Secret] = [:]
            for isRange in [false, true] {
                for _ in 0..<(try reader.u32()) {
                    let name = try words(Int(try reader.u8()))
                    let key = Secret(try reader.slice(Int(try reader.u16())))
                    guard keys.updateValue(key, forKey: isRange ? .range(name) : .client(name)) == nil else {
                        throw Truncated()
                    }
                }
            }
            guard reader.isEmpty else { throw Truncated() }
            self.keys = keys
        } catch {
            throw UnreadableRecord(name: name)
        }
    }
}
