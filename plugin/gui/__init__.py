"""The plugin's windows: widgets, no logic."""
