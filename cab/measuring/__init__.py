"""Time, memory and FLOPs, and what they say about lengths (cab.efficiency)."""
