"""MetaEarth's Processing provider and algorithms."""
