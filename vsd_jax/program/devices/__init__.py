# SPDX-License-Identifier: Apache-2.0
"""Where a run goes: devices, hosts, whether it fits."""
