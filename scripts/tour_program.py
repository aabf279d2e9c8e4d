"""A program of `make tour`, for an executor of `kind: command`: works for `input_data.seconds`, and fails where it is told to."""

import json
import sys
import time

task = json.load(sys.stdin)
data = task.get("input_data") or {}
seconds = float(data.get("seconds", 1))
for part in range(1, 5):
    print(f"{part} of 4: {task['task_description']}", file=sys.stderr, flush=True)
    time.sleep(seconds / 4)
if data.get("fails"):
    sys.exit("line 1,204 of customers.csv has 11 columns, not 12")
print(json.dumps({"orders": 214, "seconds": seconds}))
