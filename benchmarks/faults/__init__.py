"""A campaign of faults: kills, malformed inputs, full disks, two processes on one folder."""
