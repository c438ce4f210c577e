"""Measurements that can be compared, or are refused."""
