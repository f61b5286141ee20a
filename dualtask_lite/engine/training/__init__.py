"""Training one stage: optimisation steps, devices, memory, gradients."""
