# SPDX-License-Identifier: Apache-2.0
"""The shell: files, configuration, checkpoints, logs, priors from disk, reports."""
