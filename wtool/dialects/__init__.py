"""What each framework writes inside its containers: torch's objects, TensorFlow's graph, Keras'
names.

A dialect turns decoded structures into tensors; several formats of one framework share it.
"""
