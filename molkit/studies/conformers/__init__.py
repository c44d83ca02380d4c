"""Rooms of the chapters on conformers."""
