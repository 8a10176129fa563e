"""Figures of merit: the papers' protocols and ours."""
