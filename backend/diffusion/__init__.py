"""Noise schedules, samplers and losses: pure functions in the papers' symbols."""
