// SPDX-License-Identifier: Apache-2.0
import DataPlane
import Testing
