"""From an archive to one accounted row per image."""
