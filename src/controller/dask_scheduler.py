"""A dask.distributed scheduler that runs for as long as stdin is open.

argv[1] is an object of arguments for distributed.Scheduler, as JSON. One line of JSON on stdout says where it listens
({ip, address, port}), or why it does not ({ename, evalue, traceback}).
"""

import asyncio
import json
import os
import sys
import traceback


async def run(arguments, say):
    from distributed import Scheduler

    scheduler = Scheduler(**arguments)
    await scheduler.start()
    say(ip=scheduler.ip, address=scheduler.address, port=scheduler.port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    await scheduler.close()


def main():
    # What libraries print is for the log.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**content):
        print(json.dumps(content), file=answer, flush=True)

    try:
        asyncio.run(run(json.loads(sys.argv[1]), say))
    except Exception as error:
        evalue = str(error)
        if isinstance(error, ImportError):
            evalue += ". The scheduler runs in %s: %s -m pip install distributed" % (sys.executable, sys.executable)
        say(ename=type(error).__name__, evalue=evalue, traceback=traceback.format_exc().splitlines())
        sys.exit(1)


main()
