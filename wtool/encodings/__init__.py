"""Byte encodings that know no checkpoint: pickle, zip, sorted table, protobuf wire, JSON, HDF5 guards."""
