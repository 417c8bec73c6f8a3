"""Who computes: reference, any module, the CPU core, the CUDA core, and the choice among them."""
