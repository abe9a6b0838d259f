"""Basics for all other packages: errors, geometry, vocabularies, hashes, files and locks."""
