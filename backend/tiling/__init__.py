"""Windows, noise and blending as pure functions of place."""
