# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its files, checkpoints, and runs that go on."""
