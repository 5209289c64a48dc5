// Uses the JSON API with the client of Connect: node connect.mjs URL DESCRIPTORS
// Prints what each call returned, one JSON value a line.
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";

const [baseUrl, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const key = process.env.SESSION_AUTHORITY_API_KEY;
const transport = createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false });
const sessions = createClient(registry.getService("session_authority.v1.SessionService"), transport);
const admin = createClient(registry.getService("session_authority.v1.SessionAdminService"), transport);
const watch = createClient(registry.getService("session_authority.v1.SessionWatchService"), transport);
const headers = { authorization: `Bearer ${key}`, "x-request-id": "from-node" };

function print(value) {
  console.log(JSON.stringify(value));
}

async function failure(call) {
  try {
    await call;
  } catch (error) {
    const found = ConnectError.from(error);
    const details = ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"].flatMap((name) => {
      const schema = registry.getMessage(name);
      return found.findDetails(schema).map((each) => toJson(schema, each));
    });
    print({ code: Code[found.code], message: found.rawMessage, details, id: found.metadata.get("x-request-id") });
  }
}

const created = await sessions.createSession(
  { userId: "connie", authenticationMethods: ["pwd"], attributes: { team: "blue" }, retrySecret: new Uint8Array(32) },
  { headers, timeoutMs: 30_000 },
);
const { sessionToken } = created;
const validated = await sessions.validateSession({ sessionToken }, { headers });
print([validated.outcome.case, validated.outcome.value.userId, validated.outcome.value.attributes]);
const batch = await sessions.batchValidateSessions({ requests: [{ sessionToken }, { sessionToken: "x" }] }, { headers });
print(batch.responses.map((each) => each.outcome.case));
const listed = await sessions.listSessions({ sessionToken }, { headers });
print([listed.sessions.length, listed.totalSize, listed.nextPageToken]);
await failure(sessions.revokeSession({ sessionToken, sessionId: "mine" }, { headers }));
await failure(sessions.listSessions({ sessionToken }, { headers: { authorization: "Bearer sak_x" } }));
await failure(sessions.listSessions({ sessionToken }, { headers, timeoutMs: 1e9 }).then(() => print("in time")));
const ended = await admin.revokeUserSessions({ userId: "connie", reason: "test" }, { headers });
print(typeof ended.effectiveTime.seconds);
await failure(sessions.listSessions({ sessionToken }, { headers }));
await failure((async () => {
  for await (const _ of watch.watchSessions((async function* () {})(), { headers }));
})());
