# SPDX-License-Identifier: Apache-2.0
"""The Toybox: a world of toy objects and rooms whose distribution is known."""
