"""E(3)-equivariant diffusion of molecules (Hoogeboom et al. 2022)."""
