# SPDX-License-Identifier: Apache-2.0
"""One call of the program, from start to report."""
