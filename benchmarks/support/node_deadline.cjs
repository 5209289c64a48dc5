// Concurrent calls of one channel of @grpc/grpc-js, each with a deadline.
// node node_deadline.cjs PROTOS ADDRESS CONCURRENCY DEADLINE_MS SECONDS < {"token": ..., "sessionId": ...}
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protos, address, concurrency, deadlineMs, seconds] = process.argv.slice(2);
const known = JSON.parse(fs.readFileSync(0, "utf8"));
const definition = loader.loadSync("session_authority/v1/session_service.proto", { includeDirs: [protos] });
const { SessionService } = grpc.loadPackageDefinition(definition).session_authority.v1;
const client = new SessionService(address, grpc.credentials.createInsecure());

function validate(index, deadline) {
  const sent = performance.now();
  return new Promise((resolve) => {
    client.validateSession({ sessionToken: known[index % known.length].token }, { deadline }, (error, answer) => {
      const right = !error && answer.session.sessionId === known[index % known.length].sessionId;
      resolve([error ? grpc.status[error.code] : right ? "RIGHT" : "WRONG", performance.now() - sent]);
    });
  });
}

async function round(callers, milliseconds, patienceMs) {
  const end = Date.now() + milliseconds;
  const outcomes = {};
  const latencies = [];
  let next = 0;
  async function ask() {
    while (Date.now() < end) {
      const [outcome, took] = await validate(next++, Date.now() + patienceMs);
      outcomes[outcome] = (outcomes[outcome] || 0) + 1;
      latencies.push(took);
    }
  }
  await Promise.all(Array.from({ length: callers }, ask));
  latencies.sort((a, b) => a - b);
  const percentile = (share) => latencies[Math.floor((latencies.length - 1) * share)];
  return { outcomes, p50: percentile(0.5), p99: percentile(0.99) };
}

(async () => {
  await round(Number(concurrency), 2000, 5000); // Warm up.
  const result = await round(Number(concurrency), Number(seconds) * 1000, Number(deadlineMs));
  console.log(JSON.stringify(result));
  client.close();
})();
