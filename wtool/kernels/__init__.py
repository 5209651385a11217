"""Loops over blocks of values: moments, histogram, cast, transpose, digest. The only importer of numba."""
