"""Loops over blocks of values: moments, histogram, cast, transpose, digest.

The only room that imports numba.
"""
