"""Rooms of the chapters on orbital-free DFT: what each computes and draws."""
