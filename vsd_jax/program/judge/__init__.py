# SPDX-License-Identifier: Apache-2.0
"""What is measured on a run, and what that means."""
