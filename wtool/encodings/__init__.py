"""Byte encodings that know no checkpoint: pickle, zip, sorted table, protobuf, JSON, HDF5."""
