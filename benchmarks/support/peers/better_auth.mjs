// getSession of better-auth, on PostgreSQL and without its cookie cache. It also loads the user.
import http from "node:http";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { fromNodeHeaders } from "better-auth/node";
import pg from "pg";

const auth = betterAuth({
  baseURL: "http://127.0.0.1",
  secret: "a benchmark's secret of sufficient length",
  database: new pg.Pool({ connectionString: process.env.POSTGRES_URL, max: 10 }),
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
});
await (await getMigrations(auth.options)).runMigrations();

http
  .createServer(async (request, response) => {
    const url = new URL(request.url, "http://127.0.0.1");
    let body, status = 200, cookies = [];
    if (url.pathname === "/login") {
      const user = url.searchParams.get("user");
      const answer = await auth.api.signUpEmail({
        body: { name: user, email: `${user}@example.org`, password: "correct horse battery" },
        asResponse: true,
      });
      cookies = answer.headers.getSetCookie();
      status = answer.status;
      body = await answer.text();
    } else {
      const session = await auth.api.getSession({ headers: fromNodeHeaders(request.headers) });
      status = session ? 200 : 401;
      body = JSON.stringify(session ? { user: session.user.name, session: session.session.id } : {});
    }
    response.writeHead(status, {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      ...(cookies.length ? { "set-cookie": cookies } : {}),
    });
    response.end(body);
  })
  .listen(Number(process.env.PORT), "127.0.0.1");
