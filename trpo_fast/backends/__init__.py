"""Who computes: plain PyTorch, the CPU kernels, the CUDA kernels, and the choice among them."""
