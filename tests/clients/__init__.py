"""Clients that people use, against one real `mooring serve demo`: none may trip over the `mooring` object."""
