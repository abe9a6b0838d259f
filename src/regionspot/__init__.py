"""RegionSpot: name any region of any image."""
