"""A package, so that no other one of this name, as torch-fidelity installs, is found instead."""
