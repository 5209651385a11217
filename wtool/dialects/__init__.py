"""What each framework writes inside its containers: the objects, graphs and names of its own.

A dialect turns decoded structures into tensors; several formats of one framework share it.
"""
