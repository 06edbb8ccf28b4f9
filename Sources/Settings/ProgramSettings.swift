// SPDX-License-Identifier: Apache-2.0

/// The settings of one of the two programs, as their command lines need them.
public protocol ProgramSettings {
    /// The program's name, for messages.
    static var program: String { get }
    /// Where its configuration file is unless the command line says otherwise.
    static var defaultPath: String { get }
    /// Where its control socket is unless the configuration file says otherwise.
    static var defaultControlSocket: String { get }

    /// Reads a configuration file and the secret files it names.
    ///
    /// - Throws: every problem found, not only the first.
    static func load(path: String) throws(SettingsError) -> Self

    /// Only the path of the control socket, without access to any secret.
    static func controlSocket(inFile path: String) throws(SettingsError) -> String
}

extension ServerSettings: ProgramSettings {
    public static var program: String { "gcks" }
}

extension ClientSettings: ProgramSettings {
    public static var program: String { "satipsec" }
}
