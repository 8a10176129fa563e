"""One module a protocol: (settings, report, check) -> table."""
