"""The generative world: a source made finer on demand, where a camera looks."""
