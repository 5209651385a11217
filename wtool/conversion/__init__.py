"""Conversion: which tensors a target gets, under which names, in which layout and type; lazy."""
