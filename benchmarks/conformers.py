"""Right stereo, number and cost of `molkit conformers` on 44 molecules, beside ETKDGv3 with MMFF94.

Run: python -m benchmarks.conformers [part of a class or name ...]. Prints one line of JSON a molecule and then the
classes. Both make COUNT conformers, relaxed by the same force field; the flow's are made as by the command, before
equal minima are left out. Whether they are right is read off the written SDF by RDKit, which knows atoms and bonds
alone; it sees no centre in a phosphine's coordinates, so that none of those counts. `ratio`: CPU seconds over those of
ETKDGv3 with MMFF94. `median`, `etkdg_median`: energy of the force field above the lowest that either way found, in
kcal/mol, median over conformers. Two molecules have an axis that the SMILES leaves open
(BINOL, penta-2,3-diene): specified axes are refused.
"""

import json
import sys
from time import process_time
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from molkit.cgcf.choice import flow_for
from molkit.cgcf.conformer_jobs import ConformerJob, made_by_both
from molkit.cgcf.conformers import by_rdkit, relaxed, sdf_lines
from molkit.cgcf.loaded import shared_flow
from molkit.chem.bond_graph import graph_mol

COUNT = 20
MOLECULES = {
    "steroid cholesterol": "C[C@H](CCCC(C)C)[C@H]1CC[C@@H]2[C@@]1(CC[C@H]3[C@H]2CC=C4[C@@]3(CC[C@@H](C4)O)C)C",
    "steroid testosterone": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "sugar glucose": "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "sugar sucrose": "OC[C@H]1O[C@@](CO)(O[C@H]2O[C@H](CO)[C@@H](O)[C@H](O)[C@H]2O)[C@@H](O)[C@@H]1O",
    "drug atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O",
    "drug imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "drug penicillin G": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "drug ritonavir": (
        "CC(C)c1nc(CN(C)C(=O)N[C@@H](C(C)C)C(=O)N[C@@H](Cc2ccccc2)C[C@H](O)[C@H](Cc2ccccc2)NC(=O)OCc2cncs2)cs1"
    ),
    "drug morphine": "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "diene 2E,4Z-hexadiene": "C/C=C/C=C\\C",
    "diene sorbic acid": "C/C=C/C=C/C(=O)O",
    "polyene retinal": "CC1=C(C(CCC1)(C)C)/C=C/C(=C/C=C/C(=C/C=O)/C)/C",
    "polyene arachidonic acid": "CCCCC/C=C\\C/C=C\\C/C=C\\C/C=C\\CCCC(=O)O",
    "alkene Z-stilbene": "c1ccccc1/C=C\\c1ccccc1",
    "alkene oxime": "C/C(=N\\O)c1ccccc1",
    "sulfoxide methyl phenyl": "C[S@](=O)c1ccccc1",
    "sulfoxide esomeprazole": "COc1ccc2[nH]c([S@@](=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "sulfoxide sulfoximine": "C[S@@](=N)(=O)c1ccccc1",
    "phosphoramide cyclophosphamide": "O=[P@@]1(N(CCCl)CCCl)NCCCO1",
    "phosphoramidate sofosbuvir": (
        "C[C@@H](C(=O)OC(C)C)N[P@](=O)(OC[C@@H]1[C@H]([C@@](C)([C@@H](O1)n2ccc(=O)[nH]c2=O)F)O)Oc3ccccc3"
    ),
    "phosphine anisyl": "C[P@](c1ccccc1)c1ccccc1OC",
    "ammonium": "C[N@@+](CC)(CC=C)Cc1ccccc1",
    "amine trimethylaziridine": "C[C@@H]1CN1C",
    "amine Troeger's base": "Cc1ccc2c(c1)C[N@]1C[N@@]2Cc2cc(C)ccc12",
    "atropisomer BINOL": "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12",
    "bridged camphor": "CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2",
    "bridged norbornene anhydride": "O=C1OC(=O)[C@@H]2[C@H]1[C@H]1C=C[C@@H]2C1",
    "bridged cocaine": "COC(=O)[C@H]1[C@@H](OC(=O)c2ccccc2)C[C@@H]2CC[C@H]1N2C",
    "bridged quinine": "COc1ccc2nccc([C@@H](O)[C@@H]3C[C@@H]4CCN3C[C@@H]4C=C)c2c1",
    "cage artemisinin": "C[C@@H]1CC[C@H]2[C@H](C(=O)O[C@H]3[C@@]24[C@H]1CC[C@](O3)(OO4)C)C",
    "cage adamantanol": "OC1C2CC3CC(C2)CC1C3",
    "spiro spironolactone": "CC(=O)S[C@@H]1CC2=CC(=O)CC[C@]2(C)[C@H]2CC[C@]3(C)[C@@]4(CCC(=O)O4)CC[C@H]3[C@H]12",
    "spiro griseofulvin": "COC1=CC(=O)C[C@@H](C)[C@]11Oc2c(Cl)c(OC)cc(OC)c2C1=O",
    "spiro ketal": "C1CC[C@@]2(OC1)CCCCO2",
    "macrocycle exaltolide": "O=C1CCCCCCCCCCCCCCO1",
    "macrocycle zearalenone": "C[C@H]1CCCC(=O)CCC/C=C/c2cc(O)cc(O)c2C(=O)O1",
    "macrocycle erythromycin core": (
        "CC[C@H]1OC(=O)[C@H](C)[C@@H](O)[C@H](C)[C@@H](O)[C@](C)(O)C[C@@H](C)C(=O)[C@H](C)[C@@H](O)[C@]1(C)O"
    ),
    "peptide Ala-Phe-Ser": "C[C@H](N)C(=O)N[C@@H](Cc1ccccc1)C(=O)N[C@@H](CO)C(=O)O",
    "peptide enkephalin": "CSCC[C@H](NC(=O)[C@H](Cc1ccccc1)NC(=O)CNC(=O)CNC(=O)[C@@H](N)Cc1ccc(O)cc1)C(=O)O",
    "peptide cyclo(Ala-Pro)": "C[C@@H]1NC(=O)[C@@H]2CCCN2C1=O",
    "peptide cyclo(RGD-like)": "C[C@@H]1NC(=O)[C@H](Cc2ccccc2)NC(=O)[C@H](CO)NC(=O)CNC(=O)[C@@H]2CCCN2C1=O",
    "allene penta-2,3-diene": "CC=C=CC",
    "chain butanol": "CCCCO",
    "bridged decalin": "C1CC[C@@H]2CCCC[C@H]2C1",
}


def measured(smiles: str, *, count: int = COUNT, seed: int = 0) -> dict[str, Any]:
    """Numbers of one molecule: conformers obtained, those of the right isomer, draws, CPU seconds of both ways."""
    job = ConformerJob(smiles=smiles, count=count, seed=seed, weights=flow_for(smiles))
    shared_flow(job.weights)
    started = process_time()
    baseline = relaxed(by_rdkit(smiles, graph_mol(smiles), count, seed=seed))
    middle = process_time()
    made = made_by_both(job, None)
    seconds, usual = process_time() - middle, middle - started
    found, usual_found = (np.concatenate(list(one.energies.values())) for one in (made, baseline))
    lowest = np.nanmin([*found, *usual_found])
    records = Chem.SDMolSupplier()
    records.SetData("".join(sdf_lines(made)), removeHs=False)
    return {
        "smiles": smiles,
        "obtained": len(made),
        "right": sum(is_isomer(mol, smiles) for mol in records),
        "drawn": made.num_drawn,
        "seconds": round(seconds, 2),
        "etkdg_obtained": len(baseline),
        "etkdg_seconds": round(usual, 2),
        "ratio": round(seconds / usual, 1),
        "median": round(float(np.nanmedian(found) - lowest), 2),
        "etkdg_median": round(float(np.nanmedian(usual_found) - lowest), 2),
    }


def is_isomer(mol: Chem.Mol, smiles: str) -> bool:
    """Whether the coordinates say what the SMILES specifies; other stereo is free."""
    bare = Chem.Mol(mol)
    Chem.RemoveStereochemistry(bare)
    Chem.AssignStereochemistryFrom3D(bare)
    bare, wanted = Chem.RemoveHs(bare), Chem.MolFromSmiles(smiles)
    return bare.GetNumAtoms() == wanted.GetNumAtoms() and bare.HasSubstructMatch(wanted, useChirality=True)


def main() -> None:
    """Every molecule, or those whose name holds one of the words given."""
    torch.set_num_threads(1)
    words, classes = sys.argv[1:] or [""], {}
    for name, smiles in MOLECULES.items():
        if any(word in name for word in words):
            row = measured(smiles)
            print(json.dumps({"name": name, **row}), flush=True)
            classes.setdefault(name.split()[0], []).append(row)
    for kind, rows in classes.items():
        numbers = {name: int(sum(row[name] for row in rows)) for name in ("obtained", "right", "drawn")}
        ratio = float(np.max([row["ratio"] for row in rows]))
        print(json.dumps({"class": kind, "molecules": len(rows), **numbers, "highest_ratio": ratio}))


if __name__ == "__main__":
    main()
