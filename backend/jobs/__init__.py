"""Jobs: the immutable plan and what carries it out."""
