"""Orbital-free density functional theory with a learned kinetic functional (bohr and hartree inside)."""
