"""The same tasks and questions for ipyparallel's own databases; run by the benchmark `taskdb` when STOCK_PYTHON names a Python
that has ipyparallel."""

import logging
import os
import sys
import time
from datetime import datetime, timedelta, timezone

from ipyparallel.controller.dictdb import DictDB
from ipyparallel.controller.hub import init_record
from ipyparallel.controller.sqlitedb import SQLiteDB

tasks, folder = int(sys.argv[1]), sys.argv[2]
start = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
session = "1f2e3d4c-5b6a7988c0ffee0123456789"


def at(n):
    return start + timedelta(milliseconds=n)


def request(n):
    return {
        "header": {
            "msg_id": f"{session}_4711_{n}",
            "msg_type": "apply_request",
            "username": "user",
            "session": session,
            "date": at(n),
            "version": "5.3",
        },
        "metadata": {
            "after": [],
            "follow": [],
            "timeout": None,
            "targets": [],
            "retries": 0,
            "label": f"group_{n % 1000:03}/part_{n % 7}",
        },
        "content": {},
        "buffers": [b"x" * 850, b"x" * 100],
    }


def run(name, db):
    begin, cpu = time.perf_counter(), time.thread_time()
    for n in range(tasks):
        record = init_record(request(n))
        msg_id = record["msg_id"]
        engine = f"0123456789-abcdef-engine-{n % 100:04}"
        db.add_record(msg_id, record)
        db.update_record(msg_id, {"engine_uuid": engine})
        db.update_record(
            msg_id,
            {
                "result_header": {
                    "msg_id": f"{engine}_{n}",
                    "msg_type": "apply_reply",
                    "username": "user",
                    "session": engine,
                    "date": at(n + 3),
                    "version": "5.3",
                },
                "result_metadata": {
                    "started": at(n + 1),
                    "dependencies_met": True,
                    "engine": engine,
                    "status": "ok",
                },
                "result_content": {"status": "ok"},
                "received": at(n + 4),
                "started": at(n + 1),
                "completed": at(n + 3),
                "engine_uuid": engine,
                "result_buffers": [b"x" * 60],
            },
        )
    if hasattr(db, "_db"):
        db._db.commit()
    took = time.perf_counter() - begin
    cpu = (time.thread_time() - cpu) / tasks * 1e6
    print(
        f"stock {name}: {tasks} tasks in {took:.2f} s, {tasks / took:.0f} tasks/s; {cpu:.1f} us of CPU for a task"
    )


def ask(what, question):
    begin = time.perf_counter()
    found = len(question())
    took = (time.perf_counter() - begin) * 1e3
    print(f"  {what:<44} {took:>10.3f} ms  {found:>11} records")


def questions(db):
    middle = tasks // 2
    find = db.find_records
    ask("by msg_id", lambda: find({"msg_id": f"{session}_4711_{middle}"}))
    span = {"$gte": at(middle), "$lt": at(middle + 100)}
    ask("by time, 100 records", lambda: find({"submitted": span}))
    ask("the newest 100", lambda: find({"submitted": {"$gte": at(tasks - 100)}}))
    ask("unfinished (none)", lambda: find({"completed": None}, ["msg_id", "started"]))
    engine = "0123456789-abcdef-engine-0007"
    ask("by engine, 1%, ids", lambda: find({"engine_uuid": engine}, ["msg_id"]))
    ask("by label glob, 0.1%", lambda: find({"label": {"$glob": "group_123/*"}}))
    glob = {"label": {"$glob": "*_123/part_3"}}
    ask("by label glob without a prefix, ids", lambda: find(glob, ["msg_id"]))
    ask("history", db.get_history)


db = DictDB()
run("DictDB, 1,024 records", db)
from tornado import ioloop  # noqa: E402

ioloop.IOLoop.current()
filename = f"taskdb-bench-stock-{os.getpid()}.db"
db = SQLiteDB(location=folder, filename=filename, log=logging.getLogger())
run("SQLiteDB", db)
path = os.path.join(folder, filename)
print(f"  {os.path.getsize(path) / 1e6:.0f} MB, {os.path.getsize(path) // tasks} B for a record")
questions(db)
os.remove(path)
