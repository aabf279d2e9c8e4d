// graphile-worker's program: `node graphile.mjs setup|work`, as benchmarks/contender.py calls it.
import { writeSync } from "node:fs";
import { Logger, run, runMigrations } from "graphile-worker";

const slots = Number(process.env.BENCH_SLOTS);
const jobs = Number(process.env.BENCH_JOBS);
const batching =
  process.env.BENCH_VARIANT === "local"
    ? { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
    : {};
const preset = {
  worker: {
    connectionString: process.env.BENCH_DSN,
    concurrentJobs: slots,
    maxPoolSize: slots + 1,
    ...batching,
    logger: new Logger(() => (level, message) => {
      if (level === "error") process.stderr.write(`${message}\n`);
    }),
  },
};

let count = 0;
function noop() {
  count += 1;
  if (jobs === 0 || count === 1 || count === jobs) writeSync(1, `ran ${count} ${process.hrtime.bigint()}\n`);
}

if (process.argv[2] === "setup") {
  await runMigrations({ preset });
} else {
  const runner = await run({ preset, taskList: { noop } });
  await runner.promise;
}
