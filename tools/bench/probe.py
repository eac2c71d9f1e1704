"""What it costs to import a module, on top of importing requests.

Usage: python probe.py (share | cpu | traced | resident | first URL)
           MODULE [DIR]

Prints a number: processor time as a ratio to that of importing asyncio, which
is of Python alone as well, or in seconds, bytes that Python has allocated,
bytes of the process in memory, or (``first``) seconds of the processor that
the first request of this process takes.
"""

import gc
import os
import sys
import time


def resident() -> int:
    """Bytes of this process that are in memory; 0 where it is unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def cost_of_import(kind: str, module: str) -> float:
    """Import requests, then the module; measure the latter."""
    if kind == "traced":
        import tracemalloc

        tracemalloc.start()
    import requests  # noqa: F401

    if kind == "share":
        return time_of_import(module) / time_of_import("asyncio")
    if kind == "cpu":
        return time_of_import(module)
    if kind == "traced":
        before = tracemalloc.get_traced_memory()[0]
        __import__(module)
        return tracemalloc.get_traced_memory()[0] - before
    before = resident()
    __import__(module)
    return resident() - before


def time_of_import(module: str) -> float:
    """Seconds of the processor, without those for the garbage of others."""
    gc.collect()
    began = time.process_time()
    __import__(module)
    return time.process_time() - began


def cost_of_first_request(url: str, name: str) -> float:
    """Seconds of the first request that this process makes."""
    import client

    first = client.KINDS[name](url)
    began = time.process_time()
    first.rget()
    return time.process_time() - began


def main() -> None:
    """Measure one thing, once: a second time would find it done."""
    here = os.path.dirname(os.path.abspath(__file__))
    kind, *rest = sys.argv[1:]
    url = rest.pop(0) if kind == "first" else ""
    module, *site = rest
    sys.path[:1] = [here] + (site or [os.path.dirname(here)])
    if kind == "first":
        print(cost_of_first_request(url, module))
    else:
        print(cost_of_import(kind, module))


if __name__ == "__main__":
    main()
