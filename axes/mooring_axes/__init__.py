"""Directions and floors: what an axis is, where it comes from, and what a profile asks of it. Knows no vLLM.

    artifact   the axis file           convert    the authors' files -> Axis; the only place that flips a sign
    profiles   profiles.yaml -> floors per layer, digest      registry   known models -> published axis and cap
"""
