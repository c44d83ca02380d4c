"""CGCF and ETM: conformers from a continuous flow on the distances of a molecular graph, tilted by a learned energy.

Source: Xu, Luo, Bengio, Peng, Tang, Learning Neural Generative Dynamics for Molecular Conformation Generation,
ICLR 2021 (arXiv 2102.10240).
"""
