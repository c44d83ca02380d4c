"""Rooms of the chapters on EDM: what each computes and draws."""
