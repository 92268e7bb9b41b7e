"""What a layer mixes its tokens by: attention, recurrent mixers, and the weights that they have."""
