"""Networks of the cascade and the bundles that carry their weights."""
