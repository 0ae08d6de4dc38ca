"""Which layers are redundant: ARank, measured damage, and retention plans made from them."""
