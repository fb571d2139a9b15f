# SPDX-License-Identifier: Apache-2.0
"""From a configuration to the arguments of the library."""
