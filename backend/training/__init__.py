"""Training of the cascade: the split by place, the imagery, degradation and the trainer."""
