//! Lossy passes (8-bit weights, dynamic quantisation), the transactional driver that runs every pass, the search and the recipe it ends in.
