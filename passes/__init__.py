"""Graph passes: find dropout beside linear in a captured graph and fuse them."""
