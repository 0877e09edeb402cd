"""How hard XLA optimizes what is compiled for few examples."""

# Of readers of integers and of measurements: compiling them takes longer than running them. Half the CPU time, the same
# integers. The training forward keeps all optimizations, for what is proven is what a user trains.
QUICKLY = {"xla_backend_optimization_level": 0}
