"""Every picture, drawn by matplotlib; one look for all."""
