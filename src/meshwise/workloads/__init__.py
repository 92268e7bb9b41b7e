"""How much is computed: a training step, a prefill, one decode iteration, or requests being served."""
