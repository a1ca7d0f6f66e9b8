"""Arithmetic on plain numbers and tensors that several rooms share."""
