"""Manifests: what a release holds and what fine-tuning may change, as digests in a JSON file.

`digests` reads a model once and gives the digests of its files and tensors; `release` and
`freezing` make the two kinds of manifest, `document` writes and reads them, `changes` and `frozen`
compare a model with one.
"""
