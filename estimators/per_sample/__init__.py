"""Gradients of single samples."""
