"""MetaEarth-MM: one scene in several modalities, each made from any others or all of them from nothing."""
