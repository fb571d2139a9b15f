# SPDX-License-Identifier: Apache-2.0
"""What a configuration may be, and faults in it as sentences."""
