// One measurement of BullMQ, for bullmq_peer.py: it makes ready, says so, waits for a line, works,
// and tells seconds, processor seconds and resident memory, each as a line of JSON.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const { folder, port, name, jobs, concurrency, payload } = JSON.parse(process.argv[2]);
const { Queue, Worker } = createRequire(`${folder}/package.json`)("bullmq");
const BATCH = 1000;
// The record of a job stays, as it does with jobbus. A worker's blocking reads want null.
const connection = { host: "127.0.0.1", port, enableAutoPipelining: true, maxRetriesPerRequest: null };
const options = { removeOnComplete: false, removeOnFail: false };
const queue = new Queue("bench", { connection, defaultJobOptions: options });
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const tell = (answer) => console.log(JSON.stringify(answer));

async function begin() {
  tell({ ready: true });
  await lines.next();
}

async function measured(work) {
  await begin();
  const start = process.hrtime.bigint();
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  tell({
    seconds: Number(process.hrtime.bigint() - start) / 1e9,
    cpu: (user + system) / 1e6,
    rss_mb: process.memoryUsage.rss() / 2 ** 20,
  });
}

async function fill() {
  for (let start = 0; start < jobs; start += BATCH) {
    await queue.addBulk(Array.from({ length: BATCH }, () => ({ name: "nothing", data: payload })));
  }
}

const cases = {
  enqueue: () =>
    measured(async () => {
      for (let index = 0; index < jobs; index += 1) await queue.add("nothing", payload);
    }),

  bulk: () => measured(fill),

  async drain() {
    await fill();
    let done = 0;
    let finished;
    const end = new Promise((resolve) => (finished = resolve));
    const worker = new Worker("bench", async () => 1, { connection, concurrency, autorun: false });
    // Told once the job is recorded.
    worker.on("completed", () => (done += 1) === jobs && finished());
    await worker.waitUntilReady();
    await measured(async () => {
      worker.run();
      await end;
    });
  },

  async latency() {
    const seconds = [];
    let sent;
    let picked;
    const worker = new Worker(
      "bench",
      async () => {
        seconds.push(Number(process.hrtime.bigint() - sent) / 1e9);
        picked();
        return 1;
      },
      { connection, concurrency },
    );
    await worker.waitUntilReady();
    await begin();
    for (let index = 0; index < jobs; index += 1) {
      await sleep(10);
      const done = new Promise((resolve) => (picked = resolve));
      sent = process.hrtime.bigint();
      await queue.add("nothing", payload);
      await done;
    }
    tell({ latencies: seconds });
  },
};

await queue.waitUntilReady();
await cases[name]();
process.exit(0);
