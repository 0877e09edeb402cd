"""What the NNX, Linen and function interfaces share. Knows no Flax."""
