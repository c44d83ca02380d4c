"""Rooms of the chapters on diffusion and electronic structure."""
