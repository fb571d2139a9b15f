# SPDX-License-Identifier: Apache-2.0
"""What the person at the terminal types and reads."""
