"""What a family must do before any of its numbers counts (cab.check)."""
