"""The replicas of app.py as processes of this machine, from /proc."""

import os


def replicas(above: int) -> "list[int]":
    """The processes of the encoder's replicas that descend from process `above`."""
    parents, found = {}, []
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
                parents[process] = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
                if file.read().startswith("ray::ServeReplica:default:Encoder"):
                    found.append(process)
        except OSError:
            continue

    def descends(process: int) -> bool:
        return process == above or (process in parents and descends(parents[process]))

    return [process for process in found if descends(process)]


def memory(process: int, folder: str) -> "dict[str, float]":
    """MB of a process: anonymous, and of the files below `folder` what it maps (rss) and its share of that (pss)."""
    sums = {"anonymous": 0.0, "mapped_rss": 0.0, "mapped_pss": 0.0}
    is_ours = False
    with open(f"/proc/{process}/smaps", encoding="utf-8") as file:
        for line in file:
            name, *rest = line.split()
            if not name.endswith(":"):
                is_ours = len(rest) > 4 and rest[4].startswith(folder)
            elif name == "Anonymous:":
                sums["anonymous"] += int(rest[0]) / 1000
            elif is_ours and name in ("Rss:", "Pss:"):
                sums["mapped_" + name[:-1].lower()] += int(rest[0]) / 1000
    return sums
