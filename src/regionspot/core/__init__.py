"""What all other packages use: errors, geometry, vocabularies, hashes, files and locks."""
