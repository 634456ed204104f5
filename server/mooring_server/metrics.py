"""What Mooring counts for Prometheus; all names are here, and nowhere else."""

from typing import Final

from prometheus_client import Counter

READINGS_LOST: Final = Counter(
    "mooring_readings_lost", "Answers that went out before all of their readings had come (complete: false)"
)
FRAMES_MALFORMED: Final = Counter("mooring_frames_malformed", "Messages on the readings socket that were no frame")
FRAMES_DROPPED: Final = Counter("mooring_frames_dropped", "Frames that a worker could not send, by its own count")
