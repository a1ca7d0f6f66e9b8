"""Gradient noise: sigma and what follows from it."""
