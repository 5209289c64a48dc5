// Sign a user in, check the session, list the user's sessions and end one.
//
//     npm install @grpc/grpc-js @grpc/proto-loader
//     SESSION_AUTHORITY_API_KEY=sak_... node sessions.mjs
import { randomBytes } from "node:crypto";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const { SESSION_AUTHORITY_ADDRESS, SESSION_AUTHORITY_API_KEY, PROTOS } = process.env;
const ADDRESS = SESSION_AUTHORITY_ADDRESS ?? "127.0.0.1:50551";
const DEADLINE_MS = 5000;

const definition = protoLoader.loadSync("session_authority/v1/session_service.proto", {
  includeDirs: [PROTOS ?? "protos"],
  keepCase: true, // names as in the protos, for example user_id
  defaults: true, // a field without a value has its default
  oneofs: true, // `outcome` names the field of ValidateSessionResponse that is set
  enums: String,
});
const { SessionService } = grpc.loadPackageDefinition(definition).session_authority.v1;

// Without TLS only on this machine. Elsewhere: grpc.credentials.createSsl()
const client = new SessionService(ADDRESS, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${SESSION_AUTHORITY_API_KEY}`);

function call(method, request) {
  const options = { deadline: Date.now() + DEADLINE_MS };
  return promisify(client[method].bind(client))(request, metadata, options);
}

const now = Date.now();
const { session, session_token } = await call("CreateSession", {
  user_id: "ada",
  user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
  authenticate_time: { seconds: Math.floor(now / 1000), nanos: (now % 1000) * 1e6 }, // when the password check began
  authentication_methods: ["pwd"],
  retry_secret: randomBytes(32), // makes a repetition of this call safe
});

const live = await call("ValidateSession", { session_token });
console.log("live:", live.session.user_id);

for (const each of (await call("ListSessions", { session_token })).sessions) {
  console.log(each.device.display_name, each.current ? "(this device)" : "");
}

const revoked = await call("RevokeSession", { session_token, session_id: session.session_id });
const { seconds, nanos } = revoked.effective_time;
const end = new Date(Number(seconds) * 1000 + Math.ceil(nanos / 1e6));
console.log("no service accepts it after", end.toISOString());

// An invalid session is an answer, not an error.
const rejected = await call("ValidateSession", { session_token });
console.log("rejected:", rejected.rejection.reason);

try {
  await call("ListSessions", { session_token });
} catch (error) {
  console.log("refused:", grpc.status[error.code], error.details);
}
client.close();
