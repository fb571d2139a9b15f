# SPDX-License-Identifier: Apache-2.0
"""The program around the library: files, settings, checkpoints, reports."""
