"""The smallest worker: takes jobs from jobs/, notes in done/ which commit did them. TERM ends it between two jobs."""

import os
import pathlib
import signal
import time

ending = False


def end(*_):
    global ending
    ending = True


signal.signal(signal.SIGTERM, end)
jobs, done = pathlib.Path("jobs"), pathlib.Path("done")
pid = pathlib.Path(os.environ["BGD_SHARED_DIR"], "worker.pid")
pid.write_text(str(os.getpid()))
print("worker of", os.environ["BGD_COMMIT"], "begins", flush=True)
while not ending:
    waiting = sorted(job for job in jobs.iterdir() if not job.name.startswith("."))
    for job in waiting[:1]:
        pathlib.Path(done, job.name).write_text(os.environ["BGD_COMMIT"])
        job.unlink()
    if not waiting:
        time.sleep(0.05)
# Not if the next one is there already.
if pid.read_text() == str(os.getpid()):
    pid.unlink()
