"""The stages of a diagnosis, one file for each part of the result."""
