"""MetaEarth's cascade: one window, one block, one stage after another."""
