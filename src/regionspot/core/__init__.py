"""What every other package stands on: errors, coordinates, vocabularies, identities, safe files."""
