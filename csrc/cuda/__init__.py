"""The CUDA sources, installed as `torch_sparsedrop.providers.hopper.source`: users' machines compile them."""
