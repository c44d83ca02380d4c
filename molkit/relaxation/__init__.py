"""What a diffusion model knows of the energy surface: relaxation, phases, alignment, Boltzmann statistics."""
