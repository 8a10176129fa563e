"""What the plugin does without widgets."""
